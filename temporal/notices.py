"""Runs that send notices, and the bell that wakes them as soon as one is written."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from activities.notices import Sender
from core.db.engine import Db
from core.db.notify import Listener, Wake
from core.db.repositories import notices
from core.domain.notices import Channel
from core.errors import Unavailable
from core.ids import notices_workflow_id
from core.settings import Settings
from temporal.client import translated
from workflows.notices import Notices, NoticesInput
from workflows.options import CONTROL_QUEUE, HISTORY_LIMIT, TASK_TIMEOUT

log = structlog.get_logger()
_TIMEOUT = timedelta(seconds=10)
# A burst of events is one ring.
_GATHER_SECONDS = 0.2


class Bell:
    """Rings for every channel on which something is due: when it is told, and every so often in case it was not."""

    def __init__(
        self, client: Client, db: Db, url: str, tick_seconds: float, history_limit: int = HISTORY_LIMIT
    ) -> None:
        self._client = client
        self._db = db
        self._url = url
        self._tick_seconds = tick_seconds
        self._history_limit = history_limit

    async def run(self) -> None:
        """Ring until cancelled. Raises what ended its listener, should anything."""
        keys = [(Wake.NOTICES, channel.value) for channel in Channel]
        async with Listener.open(self._url) as listener:
            with listener.subscribe(*keys) as written:
                while True:
                    await self._ring()
                    await asyncio.sleep(_GATHER_SECONDS)
                    await written.wait(self._tick_seconds)
                    if listener.task.done():
                        listener.task.result()

    async def _ring(self) -> None:
        try:
            async with self._db.single() as session:
                channels = await notices.channels_with_work(session)
            for channel in channels:
                await self._wake(channel)
        except (SQLAlchemyError, OSError, TimeoutError, Unavailable, RPCError) as error:
            # The next ring is soon enough: what is written stays written.
            log.warning("notices.not_woken", error=type(error).__name__)

    async def _wake(self, channel: Channel) -> None:
        with translated():
            await self._client.start_workflow(
                Notices.run,
                NoticesInput(channel=channel, history_limit=self._history_limit),
                id=notices_workflow_id(channel.value),
                task_queue=CONTROL_QUEUE,
                task_timeout=TASK_TIMEOUT,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="written",
                static_summary=f"notices by {channel.value}",
                rpc_timeout=_TIMEOUT,
            )


async def open_channels(db: Db, settings: Settings, senders: Mapping[Channel, Sender]) -> None:
    """Have notices made for what can be sent, and say once what cannot.

    What this worker cannot send it leaves as it is: another one may.
    """
    async with db.single() as session:
        await notices.open_channels(session, senders.keys())
    if Channel.EMAIL not in senders:
        log.info("notices.no_email", why="SMTP__HOST is not set: this worker sends none")
    if Channel.WEBHOOK not in senders:
        log.info("notices.no_webhook", why="WEBHOOK__URL is not set: this worker sends none")
