"""Scheduled starts that are due: made as a start of that moment, or ended with the reason why not."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.beats import beating
from activities.hearing import heard
from activities.messages import DueStart, Nothing, ScheduledRef, Tried
from activities.ports import Signals
from core.db.engine import Db
from core.db.repositories import agents, events, explanations, projects, scheduled
from core.db.repositories.agents import AgentView
from core.db.repositories.scheduled import ScheduledView
from core.domain.admission import Reject, RejectReason, deciding
from core.domain.orders import SCHEDULED_KEY, StartAnswer, StartOutcome, StartRequest
from core.domain.schedule import PENDING, ScheduledState, ScheduleReason
from core.errors import NotFound, Unavailable
from core.ids import agent_of_scheduled
from core.settings import DEFAULT_POOL, Settings

log = structlog.get_logger()
# Runs that are missing are made this long before they are due, and in any case two looks of the reaper before.
_AHEAD = timedelta(seconds=60)
_MOST, _AT_ONCE = 1000, 16


def _now() -> datetime:
    return datetime.now(UTC)


# Answers of a worker whose settings are not ours: it has no row to write an event beside.
_UNTOLD = (RejectReason.UNKNOWN_POOL, RejectReason.UNKNOWN_TEMPLATE)


class SchedulingActivities:
    """Every method may run twice: the row is locked, moves once, and the agent it may make has one id."""

    def __init__(self, db: Db, settings: Settings, signals: Signals) -> None:
        self._db = db
        self._settings = settings
        self._signals = signals
        self._rules = settings.rules()

    @activity.defn(name="start_scheduled")
    async def start_scheduled(self, ask: DueStart) -> Tried:
        """Make the start now; not over while the queue is full, unless this is the `last` try."""
        return await beating(self._make(ask), to_its_end=False)

    async def _make(self, ask: DueStart) -> Tried:
        async with self._db.transaction() as session:
            found = await scheduled.lock(session, ask.scheduled_start_id)
            if found is None or found.state not in PENDING:
                return Tried(over=True)
            # One that is under way was examined before: what it came to is asked of the door, which knows it.
            if found.state is ScheduledState.SCHEDULED:
                standing = await self._examine(session, found, ask.last)
                if standing is not ScheduledState.STARTING:
                    return Tried(over=standing not in PENDING)
            living = await agents.current(session, found.user_id, found.project_id)
        answer = await self._start(found, living)
        async with self._db.transaction() as session:
            return Tried(over=await self._settle(session, ask, answer) not in PENDING)

    @activity.defn(name="withdraw_scheduled")
    async def withdraw_scheduled(self, ask: ScheduledRef) -> Nothing:
        """Write that an operator took it back, unless its user did."""
        async with self._db.transaction() as session:
            await scheduled.withdraw(session, ask.scheduled_start_id, ScheduleReason.OPERATOR, _now())
        return Nothing()

    async def heal(self, now: datetime) -> None:
        """See that whatever is due soon has a run: one was terminated, or never begun by an API that died."""
        ahead = max(_AHEAD, timedelta(seconds=2 * self._settings.timings.reap_seconds))
        async with self._db.transaction() as session:
            found = await scheduled.due(session, now + ahead, _MOST)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def begin(each: ScheduledView) -> None:
            async with gate:
                run = self._signals.scheduled.begin(each)
                await heard(run, "begin", scheduled_start_id=each.scheduled_start_id)

        await asyncio.gather(*(begin(each) for each in found))

    # ---- below ------------------------------------------------------------------------------------------------------

    async def _examine(self, session: AsyncSession, found: ScheduledView, last: bool) -> ScheduledState:
        """Look before the leap, without its effects, and write what it leads to; `starting` means leap."""
        try:
            await projects.require_member(session, found.project_id, found.user_id)
        except NotFound:
            return await self._refuse(session, found, ScheduleReason.NOT_A_MEMBER)
        try:
            template, name = self._settings.place_of(found.template)
        except KeyError:
            return await self._refuse(session, found, RejectReason.UNKNOWN_TEMPLATE)
        pool = self._settings.all_pools()[name]
        expected = await explanations.explain(
            session, found.user_id, found.project_id, name, pool, self._rules, _now(), template
        )
        if expected.existing is None and isinstance(expected.decision, Reject):
            reason = expected.decision.reason
            if reason is RejectReason.QUEUE_FULL and not last:
                return await self._move(session, found, ScheduledState.SCHEDULED, reason=reason.value)
            failed = deciding(expected.examined)
            return await self._refuse(session, found, reason, **(failed.numbers if failed is not None else {}))
        return await self._move(session, found, ScheduledState.STARTING)

    async def _refuse(
        self, session: AsyncSession, found: ScheduledView, reason: ScheduleReason | RejectReason, **numbers: Any
    ) -> ScheduledState:
        """End it, with an event for its user, who asked long ago and waits for no answer."""
        detail = {"scheduledStartId": found.scheduled_start_id, "startAt": found.start_at.isoformat(), **numbers}
        state = await self._move(session, found, ScheduledState.REJECTED, reason=reason.value)
        await events.record_rejection(session, found.user_id, found.project_id, _now(), reason.value, detail)
        return state

    async def _start(self, found: ScheduledView, living: AgentView | None) -> StartAnswer:
        if living is not None and living.keepable and await self._signals.keep(living):
            return StartAnswer(outcome=StartOutcome.EXISTING, agent_id=living.agent_id)
        try:
            template, pool = self._settings.place_of(found.template)
        except KeyError:
            # Taken out of the settings since a try that was lost: the door knows whether that one came to something.
            template, pool = found.template or "", DEFAULT_POOL
        request = StartRequest(
            agent_id=agent_of_scheduled(found.scheduled_start_id),
            user_id=found.user_id,
            project_id=found.project_id,
            template=template,
            pool=pool,
            # Asked again, it gets the decision that was made.
            key=f"{SCHEDULED_KEY}{found.scheduled_start_id}",
        )
        answer = await self._signals.start(request)
        if await self._is_over(request, answer):
            answer = await self._signals.start(request, anew=True)
            if await self._is_over(request, answer):
                # Its workflow does not know yet: a later try finds that it does.
                raise Unavailable("the previous life is just ending", code="worker_silent")
        return answer

    async def _is_over(self, request: StartRequest, answer: StartAnswer) -> bool:
        """Whether the answer is an agent of another request whose end is written."""
        other = answer.of_another(request)
        if other is None:
            return False
        async with self._db.transaction() as session:
            return await agents.is_over(session, other)

    async def _settle(self, session: AsyncSession, ask: DueStart, answer: StartAnswer) -> ScheduledState:
        """Write what the door said. A refusal has its event already, but for one by a worker of other settings."""
        found = await scheduled.lock(session, ask.scheduled_start_id)
        if found is None or found.state not in PENDING:
            return ScheduledState.STARTED
        if answer.outcome is not StartOutcome.REJECTED:
            return await self._move(session, found, ScheduledState.STARTED, agent_id=answer.agent_id)
        if answer.reason == RejectReason.QUEUE_FULL and not ask.last:
            return await self._move(session, found, ScheduledState.SCHEDULED, reason=answer.reason)
        if answer.reason in _UNTOLD:
            return await self._refuse(session, found, RejectReason(answer.reason))
        return await self._move(session, found, ScheduledState.REJECTED, reason=answer.reason)

    async def _move(
        self,
        session: AsyncSession,
        found: ScheduledView,
        to: ScheduledState,
        *,
        reason: str | None = None,
        agent_id: str | None = None,
    ) -> ScheduledState:
        moved = await scheduled.move(session, found.scheduled_start_id, to, _now(), reason=reason, agent_id=agent_id)
        if to not in PENDING:
            log.info("schedule.over", scheduled_start_id=found.scheduled_start_id, state=to.value, reason=reason)
        return moved.state
