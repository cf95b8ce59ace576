"""Carries what a channel noticed to the agent's workflow, again and again until it arrived or no longer matters."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from api.live.ports import DATABASE_AWAY, Lives
from core.db.engine import Db
from core.db.repositories import agents
from core.db.repositories.agents import AgentView
from core.domain.lifecycle import HOLDING, AgentState
from core.domain.orders import FailureReport
from core.domain.recovery import FailureKind
from core.errors import BerthError

log = structlog.get_logger()

_PAUSES = (0.1, 0.3, 1.0, 2.0, 5.0)
_TRIES = 200
_CALL_SECONDS = 10.0
WAITS_FOR_READY = frozenset({AgentState.STARTING, AgentState.RESTARTING})


class Reporter:
    """At most one delivery under way for an attempt and kind of report; `close` gives the rest up (rows remember)."""

    def __init__(self, db: Db, lives: Lives) -> None:
        self._db, self._lives = db, lives
        self._tasks: dict[tuple[str, int, str], asyncio.Task[None]] = {}

    def ready(self, who: AgentView) -> None:
        """Say that the attempt is usable, unless its row says that this is known."""

        async def send() -> None:
            await self._lives.ready(who.agent_id, who.attempt, who.workflow_id)

        self._start(who, "ready", WAITS_FOR_READY, send)

    def unhealthy(self, who: AgentView, detail: str) -> None:
        report = FailureReport(agent_id=who.agent_id, attempt=who.attempt, kind=FailureKind.HEALTH, detail=detail)

        async def send() -> None:
            await self._lives.failed(who.workflow_id, report)

        self._start(who, "unhealthy", HOLDING, send)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(
        self, who: AgentView, kind: str, states: frozenset[AgentState], send: Callable[[], Awaitable[None]]
    ) -> None:
        key = (who.agent_id, who.attempt, kind)
        if key in self._tasks:
            return
        task = asyncio.create_task(self._deliver(who, kind, states, send), name=f"report-{kind}-{who.agent_id}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _deliver(
        self, who: AgentView, kind: str, states: frozenset[AgentState], send: Callable[[], Awaitable[None]]
    ) -> None:
        for attempt in range(_TRIES):
            try:
                async with self._db.transaction() as session:
                    present = await agents.get(session, who.agent_id)
                if present is None or present.attempt != who.attempt or present.state not in states:
                    return
                async with asyncio.timeout(_CALL_SECONDS):
                    await send()
            except (BerthError, *DATABASE_AWAY) as error:
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                log.warning("report.delayed", agent_id=who.agent_id, kind=kind, error=type(error).__name__)
                await asyncio.sleep(pause)
            else:
                log.info("report.sent", agent_id=who.agent_id, attempt=who.attempt, kind=kind)
                return
        log.error("report.given_up", agent_id=who.agent_id, attempt=who.attempt, kind=kind)
