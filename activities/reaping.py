"""The reaper's look: what exists against what is owned, both ways, and who has gone silent.

It removes only what it can prove is ours and unowned: an object of our runtimes without a living row, confirmed by a
second read; a living row whose workflow is not running, confirmed by asking Temporal for that one workflow.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import BaseModel, ConfigDict
from temporalio import activity

from activities.contracts import Final
from activities.lives import LifeActivities, life_of
from activities.messages import Nothing, Reaped
from activities.ports import Signals
from activities.scheduling import SchedulingActivities
from core.db.engine import Db
from core.db.repositories import ordering, queue, retention, scheduled, upkeep
from core.db.repositories.upkeep import LivingRow
from core.domain.lifecycle import WAITING, AgentState, EndReason
from core.domain.orders import FailureReport, StopOrder
from core.domain.recovery import FailureKind
from core.errors import RuntimeFault
from core.runtime.base import AgentRuntime, Observation
from core.settings import Settings

log = structlog.get_logger()
# Younger things may belong to a step that is just under way.
_SETTLE = timedelta(seconds=10)
_AT_ONCE = 8
_REMOVE_SECONDS = 20
# Deleting is done in short transactions: an agent's artefacts may be many MiB.
_BATCH = 50
_NOTICES = 1000
_BATCHES = 10


class Look(BaseModel):
    """What the database and Temporal's list said at the start of a look."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: datetime
    rows: dict[str, LivingRow]
    owners: dict[str, str | None]


class ReapingActivities:
    """Two at once do no harm: every removal is idempotent and every row is written under its lock."""

    def __init__(
        self,
        db: Db,
        settings: Settings,
        signals: Signals,
        runtimes: Mapping[str, AgentRuntime],
        lives: LifeActivities,
    ) -> None:
        self._db = db
        self._settings = settings
        self._signals = signals
        self._runtimes = runtimes
        self._lives = lives
        self._scheduling = SchedulingActivities(db, settings, signals)

    @activity.defn(name="reap")
    async def reap(self, ask: Nothing) -> Reaped:
        owners = await self._signals.owners()
        async with self._db.transaction() as session:
            rows = {row.agent_id: row for row in await upkeep.living(session)}
        look = Look(at=datetime.now(UTC), rows=rows, owners=owners)
        # First of all: theirs is the only work here that has a time to be on.
        await self._scheduling.heal(look.at)
        lost = await self._report_silent()
        expired = await self._stop_expired_subscriptions()
        strangers = await self._stop_former_members()
        # Rows first: what they let go of may be an object that the second half then finds. Both may take their time.
        ended = await self._end_ownerless_rows(look)
        removed = await self._remove_ownerless_objects()
        await self.forget_ended(look.at)
        async with self._db.transaction() as session:
            await ordering.adopt_ageing(session, self._settings.queue.ageing)
        async with self._db.transaction() as session:
            await upkeep.forget_old(session, look.at)
            pools = await queue.pools_with_work(session)
        for pool in pools:
            await self._signals.wake_pool(pool)
        found = Reaped(
            objects=removed,
            rows=ended,
            channels_lost=lost,
            subscriptions=expired,
            former_members=strangers,
            pools_woken=len(pools),
        )
        if removed or ended:
            log.warning("reaper.found", objects=removed, rows=ended)
        return found

    async def forget_ended(self, now: datetime) -> None:
        """A bounded part of what is due: what is left over is the next look's."""
        kept = self._settings.retention
        before = now - timedelta(days=kept.agent_days)
        # A notice tells of an agent, so it is not kept for longer than one.
        told_before = now - timedelta(days=min(kept.notice_days, kept.agent_days))
        for _ in range(_BATCHES):
            async with self._db.transaction() as session:
                agents = await retention.forget_ended(session, before, _BATCH)
                refusals = await retention.forget_refusals(session, before, _BATCH)
                starts = await scheduled.forget_ended(session, before, _BATCH)
                notices = await retention.forget_notices(session, told_before, _NOTICES)
            if agents or refusals or starts or notices:
                log.info("reaper.forgot", agents=agents, refusals=refusals, scheduled_starts=starts, notices=notices)
            if max(agents, refusals, starts) < _BATCH and notices < _NOTICES:
                break

    # ---- rows without a workflow ------------------------------------------------------------------------------------

    async def _end_ownerless_rows(self, look: Look) -> int:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def check(row: LivingRow) -> bool:
            async with gate:
                if not await self._ownerless(row, look):
                    return False
                log.warning("reaper.row", agent_id=row.agent_id, state=row.state.value)
                return await self._end(row)

        suspects = [row for row in look.rows.values() if look.owners.get(row.workflow_id) != row.agent_id]
        old_enough = [row for row in suspects if look.at - row.changed_at > _SETTLE]
        return sum(await asyncio.gather(*(check(row) for row in old_enough)))

    async def _ownerless(self, row: LivingRow, look: Look) -> bool:
        owner = await self._signals.owner(row.workflow_id)
        if owner is None:
            return True
        # A workflow that is just handing over to this one, or clearing up behind it, is not there yet.
        if owner.deciding or owner.agent_id == row.agent_id:
            return False
        # One that waits behind its ending predecessor belongs to the workflow that still runs that one.
        predecessor = look.rows.get(owner.agent_id or "")
        return not (
            row.state in WAITING
            and predecessor is not None
            and predecessor.state is AgentState.DRAINING
            and predecessor.workflow_id == row.workflow_id
        )

    async def _end(self, row: LivingRow) -> bool:
        runtime = self._runtimes.get(row.runtime)
        if runtime is None:
            return False
        try:
            await runtime.delete(row.agent_id, row.attempt)
        except RuntimeFault as error:
            # The next look tries again; the slot stays taken until the runtime says gone.
            log.warning("reaper.blocked", agent_id=row.agent_id, code=error.error_code)
            return False
        ending = Final(life=life_of(row), state=AgentState.TERMINATED, reason=EndReason.WORKFLOW_GONE)
        return (await self._lives.finish(ending)).applied

    # ---- objects without a row --------------------------------------------------------------------------------------

    async def _remove_ownerless_objects(self) -> int:
        """All at once and for a bounded time: one that will not go must keep neither the others nor the look."""
        gate = asyncio.Semaphore(_AT_ONCE)
        removed = 0

        async def remove(name: str, runtime: AgentRuntime, seen: Observation) -> None:
            nonlocal removed
            async with gate:
                try:
                    if not await self._is_orphan(seen):
                        return
                    log.warning("reaper.object", runtime=name, agent_id=seen.agent_id, attempt=seen.attempt)
                    await runtime.delete(seen.agent_id, seen.attempt)
                    removed += 1
                except RuntimeFault as error:
                    log.warning("reaper.object_stays", agent_id=seen.agent_id, code=error.error_code)

        try:
            async with asyncio.timeout(_REMOVE_SECONDS):
                for name, runtime in self._runtimes.items():
                    try:
                        found = await runtime.list()
                    except RuntimeFault as error:
                        log.warning("reaper.runtime_silent", runtime=name, code=error.error_code)
                        continue
                    await asyncio.gather(*(remove(name, runtime, seen) for seen in found))
        except TimeoutError:
            log.warning("reaper.objects_stay", seconds=_REMOVE_SECONDS)
        return removed

    async def _is_orphan(self, seen: Observation) -> bool:
        """True when no living row stands for this attempt, read after the object was seen."""
        if seen.created_at is not None and datetime.now(UTC) - seen.created_at < _SETTLE:
            return False
        async with self._db.transaction() as session:
            attempt = await upkeep.living_attempt(session, seen.agent_id)
        return attempt is None or attempt > seen.attempt

    # ---- who has gone silent, who may not stay ----------------------------------------------------------------------

    async def _report_silent(self) -> int:
        timings = self._settings.timings
        async with self._db.transaction() as session:
            silent = await upkeep.silent_channels(
                session,
                datetime.now(UTC),
                lost_after=timedelta(seconds=timings.channel_lost_seconds),
                reconnect=timedelta(seconds=timings.reconnect_seconds),
            )
        for row in silent:
            report = FailureReport(
                agent_id=row.agent_id,
                attempt=row.attempt,
                kind=FailureKind.CHANNEL_LOST,
                detail="no word from the agent",
            )
            await self._signals.failed(row.workflow_id, report)
        return len(silent)

    async def _stop_expired_subscriptions(self) -> int:
        async with self._db.transaction() as session:
            expired = await upkeep.of_expired_subscriptions(session, datetime.now(UTC))
        return await self._stop(expired, EndReason.SUBSCRIPTION_EXPIRED)

    async def _stop_former_members(self) -> int:
        """Who was put out of a project while Temporal was away, or while a start of theirs was still undecided."""
        async with self._db.transaction() as session:
            strangers = await upkeep.of_former_members(session)
        return await self._stop(strangers, EndReason.USER_LEFT)

    async def _stop(self, rows: list[LivingRow], reason: EndReason) -> int:
        for row in rows:
            await self._signals.order_stop(row.workflow_id, StopOrder(agent_id=row.agent_id, reason=reason))
        return len(rows)
