"""The outbox drained: what is due on a channel is taken, sent and settled, many at once."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity

from activities.beats import beating
from activities.mailing import MailSender
from activities.messages import Delivered, Delivery
from activities.posting import WebhookSender
from core.db.engine import Db
from core.db.repositories import notices
from core.db.repositories.notices import Taken
from core.domain.notices import Channel, Failure, Outcome, Trouble, pause
from core.settings import Settings

log = structlog.get_logger()
# Longer than any try may take: what is not settled by then was taken by somebody who died.
_LEASE = timedelta(seconds=90)
# Then the workflow hears of it, and orders the next pass.
_PASS_SECONDS = 45.0
_AGAIN_SECONDS = 0.5


class Sender(Protocol):
    @property
    def at_once(self) -> int: ...

    async def send(self, notice: Taken) -> Failure | None:
        """None: it was taken. Ends within a minute."""


def senders_of(settings: Settings) -> dict[Channel, Sender]:
    """A sender for each way out that is set up. Raises ValueError when something is missing that it needs."""
    found: dict[Channel, Sender] = {}
    for channel in settings.notice_channels():
        match channel:
            case Channel.WEBHOOK:
                found[channel] = WebhookSender(settings.webhook)
            case Channel.EMAIL:
                found[channel] = MailSender(settings.smtp, settings.public_url())
    return found


class NoticeActivities:
    """Any number of passes may run at once, anywhere: a row is taken by one of them, for as long as its lease."""

    def __init__(self, db: Db, settings: Settings, senders: Mapping[Channel, Sender]) -> None:
        self._db = db
        self._patience = settings.notices
        self._senders = senders

    @activity.defn(name="deliver_notices")
    async def deliver_notices(self, ask: Delivery) -> Delivered:
        """Send what is due, each at most once in this pass. Run twice, the second finds what the first has left."""
        sender = self._senders.get(ask.channel)
        if sender is None:
            await self._give_up_old(ask.channel)
            return Delivered()
        counts = await beating(self._pass(ask.channel, sender))
        async with self._db.single() as session:
            _, wait = await notices.due(session, ask.channel)
        return Delivered(
            sent=counts[Outcome.SENT],
            retried=counts[Outcome.RETRIED],
            dead=counts[Outcome.DEAD],
            next_in_seconds=wait,
        )

    async def _pass(self, channel: Channel, sender: Sender) -> Counter[Outcome]:
        counts: Counter[Outcome] = Counter()
        ends = time.monotonic() + _PASS_SECONDS
        async with self._db.single() as session:
            ripe, _ = await notices.due(session, channel)

        async def drain() -> None:
            while time.monotonic() < ends and not activity.is_cancelled() and not activity.is_worker_shutdown():
                async with self._db.single() as session:
                    notice = await notices.take(session, channel, _LEASE, self._tired_after())
                if notice is None:
                    return
                counts[await self._deliver(notice, sender)] += 1

        # All of them to their end, whatever one meets: what the others have sent must be settled.
        found = await asyncio.gather(*(drain() for _ in range(min(ripe, sender.at_once))), return_exceptions=True)
        for error in found:
            if error is not None:
                raise error
        return counts

    async def _deliver(self, notice: Taken, sender: Sender) -> Outcome:
        until = time.monotonic() + _LEASE.total_seconds()
        failure = await _tried(notice, sender)
        if failure is None:
            await self._settled(until, lambda: self._note_sent(notice))
            return Outcome.SENT
        final = failure.final or notice.tired
        # The jitter keeps no secret.
        seconds = pause(notice.tries, self._patience, random.random(), failure.asked)  # noqa: S311
        after = None if final else timedelta(seconds=seconds)
        log.warning(
            "notice.dead" if final else "notice.failed",
            notice_id=notice.notice_id,
            error=failure.trouble.value,
            tries=notice.tries,
        )
        await self._settled(until, lambda: self._note_failure(notice, failure, after))
        return Outcome.DEAD if final else Outcome.RETRIED

    async def _note_sent(self, notice: Taken) -> None:
        async with self._db.transaction() as session:
            await notices.note_sent(session, notice)

    async def _note_failure(self, notice: Taken, failure: Failure, after: timedelta | None) -> None:
        async with self._db.transaction() as session:
            await notices.note_failure(session, notice, failure.trouble.value, failure.detail, after)

    async def _settled(self, until: float, write: Callable[[], Awaitable[None]]) -> None:
        """Write what came of it, also when the database is away for a moment: or it would be sent again."""
        while time.monotonic() < until - _AGAIN_SECONDS:
            with contextlib.suppress(SQLAlchemyError, OSError, TimeoutError):
                return await write()
            await asyncio.sleep(_AGAIN_SECONDS)
        await write()

    async def _give_up_old(self, channel: Channel) -> None:
        """This worker is not set up to send these. They wait for one that is, for as long as any does."""
        async with self._db.transaction() as session:
            gone = await notices.give_up(session, channel, self._tired_after())
        if gone:
            log.warning("notices.given_up", channel=channel.value, count=gone)

    def _tired_after(self) -> timedelta:
        return timedelta(hours=self._patience.give_up_hours)


async def _tried(notice: Taken, sender: Sender) -> Failure | None:
    """As the sender says; what nobody foresaw is a failed try like any other, so that no notice outlives its day."""
    try:
        return await sender.send(notice)
    except Exception as error:  # owner: the other notices, and whoever reads why this one is dead
        log.exception("notice.broken", notice_id=notice.notice_id)
        return Failure(trouble=Trouble.BROKEN, detail=f"{type(error).__name__}, see the worker's log")
