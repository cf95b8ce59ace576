"""The reaper's look: what exists against what is owned, both ways, and who has gone silent.

It removes only what it can prove is ours and unowned: an object of our runtimes without a living row, read after it was
seen; a living row whose workflow is not running, confirmed by asking Temporal for that one workflow; a run of a life or
of a scheduled start without a row that is to go on. `docs/reaper.md` tells it to operators.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.beats import beating
from activities.hearing import heard, wake_pools
from activities.leftovers import Leftovers, Look
from activities.lives import LifeActivities
from activities.messages import Nothing, Reaped
from activities.ports import ORPHANS, Meter, Signals, Unmetered
from activities.profiles import Profiles
from activities.runs import OwnerlessRuns
from activities.scheduling import SchedulingActivities
from activities.told import Told
from core.db.engine import Db
from core.db.repositories import ordering, queue, retention, scheduled, upkeep
from core.db.repositories.upkeep import LivingRow
from core.domain import silence
from core.domain.lifecycle import EndReason
from core.domain.orders import FailureReport, StopOrder
from core.domain.orphans import OrphanKind
from core.domain.recovery import FailureKind
from core.runtime.base import AgentRuntime
from core.settings import Settings

log = structlog.get_logger()
# Younger things may belong to a step that is just under way.
_SETTLE = timedelta(seconds=10)
_REMOVE_SECONDS = 20.0
_PRUNE_EVERY = 3600.0
# Deleting is done in short transactions, so that none meets the end of a statement's time.
_AGENTS = 50
_BATCH = 50
_COMMANDS = 500
_ROWS = 1000
_BATCHES = 20
# Of each kind; all of it and the rest of a look have three minutes.
_FORGET_SECONDS = 10.0


class ReapingActivities:
    """Two at once do no harm: every removal is idempotent and every row is written under its lock."""

    def __init__(
        self,
        db: Db,
        settings: Settings,
        signals: Signals,
        runtimes: Mapping[str, AgentRuntime],
        lives: LifeActivities,
        meter: Meter | None = None,
    ) -> None:
        self._db = db
        self._settings = settings
        self._signals = signals
        self._runtimes = runtimes
        self._meter = meter or Unmetered()
        self._scheduling = SchedulingActivities(db, settings, signals)
        self._leftovers = Leftovers(db, signals, runtimes, lives, _REMOVE_SECONDS)
        # What they are to do about a word may take longer than it takes to look again.
        self._told = Told()
        self._runs = OwnerlessRuns(db, signals, self._told, _REMOVE_SECONDS)
        self._profiles = Profiles(db, runtimes)
        self._pruned_at: float | None = None

    @activity.defn(name="reap")
    async def reap(self, ask: Nothing) -> Reaped:
        """One look. With heartbeats, so that one whose worker dies is soon taken up by another."""
        return await beating(self.look(), to_its_end=False)

    async def look(self) -> Reaped:
        owners = await self._signals.owners()
        async with self._db.transaction() as session:
            rows = {row.agent_id: row for row in await upkeep.living(session)}
        look = Look(at=datetime.now(UTC), settle=_SETTLE, rows=rows, owners=owners)
        # First of all: theirs is the only work here that has a time to be on.
        await self._scheduling.heal(look.at)
        lost = await self._report_silent()
        expired = await self._stop_expired_subscriptions()
        strangers = await self._stop_former_members()
        # What each of these lets go of may be an object that the last of them then finds. All may take their time.
        runs = await self._runs.end_lives(owners, rows, _SETTLE)
        starts = await self._runs.end_starts(_SETTLE)
        ended = await self._leftovers.end_rows(look)
        objects, outrun = await self._leftovers.remove_objects(look)
        profiles = await self._prune_idle_profiles()
        await self.forget_ended(look.at)
        async with self._db.transaction() as session:
            await ordering.adopt_ageing(session, self._settings.queue.ageing)
        async with self._db.transaction() as session:
            pools = await queue.pools_with_work(session)
        await wake_pools(self._signals.wake_pool, pools)
        found = Reaped(
            objects=objects.removed,
            rows=ended.removed,
            workflows=runs.removed + outrun.removed,
            scheduled_starts=starts.removed,
            profiles=profiles,
            stays=sum(each.stays for each in (objects, ended, runs, outrun, starts)),
            channels_lost=lost,
            subscriptions=expired,
            former_members=strangers,
            pools_woken=len(pools),
        )
        self._tell(found)
        return found

    def _tell(self, found: Reaped) -> None:
        orphans = {
            OrphanKind.OBJECT: found.objects,
            OrphanKind.ROW: found.rows,
            OrphanKind.WORKFLOW: found.workflows,
            OrphanKind.SCHEDULED_START: found.scheduled_starts,
            OrphanKind.PROFILE: found.profiles,
        }
        told = {kind.value: number for kind, number in orphans.items() if number}
        for kind, number in told.items():
            self._meter.count(ORPHANS, number, kind=kind)
        if told:
            log.warning("reaper.found", **told)

    async def _prune_idle_profiles(self) -> int:
        """Once an hour: it looks at every profile there is, and days are what counts."""
        now, days = asyncio.get_running_loop().time(), self._settings.retention.profile_idle_days
        if not days or (self._pruned_at is not None and now - self._pruned_at < _PRUNE_EVERY):
            return 0
        self._pruned_at = now
        return await self._profiles.prune(timedelta(days=days), self._runtimes, seconds=_REMOVE_SECONDS)

    async def forget_ended(self, now: datetime) -> None:
        """A bounded part of what is due: what is left over is the next look's, and so is what cannot be deleted.

        Each kind by itself, and nothing else waits for them: what fails now may fail at every look.
        """
        kept = self._settings.retention
        before = now - timedelta(days=kept.agent_days)
        # A notice tells of an agent, so it is not kept for longer than one.
        told_before = now - timedelta(days=min(kept.notice_days, kept.agent_days))
        kinds: dict[str, Callable[[AsyncSession], Awaitable[int]]] = {
            "artefacts": lambda session: retention.forget_artefacts(session, before),
            "commands": lambda session: retention.forget_commands(session, before, _COMMANDS),
            "events": lambda session: retention.forget_events(session, before, _ROWS),
            "agents": lambda session: retention.forget_ended(session, before, _AGENTS),
            "refusals": lambda session: retention.forget_refusals(session, before, _BATCH),
            "scheduled_starts": lambda session: scheduled.forget_ended(session, before, _BATCH),
            "notices": lambda session: retention.forget_notices(session, told_before, _ROWS),
            "answers": lambda session: upkeep.forget_old(session, now, _ROWS),
        }
        numbers = {kind: await self._forget(kind, forget) for kind, forget in kinds.items()}
        if any(numbers.values()):
            log.info("reaper.forgot", **numbers)

    async def _forget(self, kind: str, forget: Callable[[AsyncSession], Awaitable[int]]) -> int:
        """Some of what is due of a kind, a batch a transaction; how much went."""
        clock, number = asyncio.get_running_loop().time, 0
        until = clock() + _FORGET_SECONDS
        try:
            for _ in range(_BATCHES):
                async with self._db.transaction() as session:
                    gone = await forget(session)
                number += gone
                if not gone or clock() > until:
                    break
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            why = error.orig if isinstance(error, DBAPIError) else error
            log.warning("reaper.not_forgotten", kind=kind, why=str(why)[:300])
        return number

    # ---- who has gone silent, who may not stay ----------------------------------------------------------------------

    async def _report_silent(self) -> int:
        own = {name: each.timings for name, each in self._settings.templates.items() if each.timings is not None}
        async with self._db.transaction() as session:
            silent = await upkeep.silent_channels(session, self._settings.timings, own)
            # Those who fell silent with them may be a heartbeat behind, and this look in between.
            by_cluster = await upkeep.heard_channels(session, self._settings.timings.silent_after)
        told = 0
        lost = [row for row in silent if not self._told.lately(row.agent_id, row.attempt, FailureKind.CHANNEL_LOST)]
        for row in _believed(lost, by_cluster):
            report = FailureReport(
                agent_id=row.agent_id,
                attempt=row.attempt,
                kind=FailureKind.CHANNEL_LOST,
                detail="no word from the agent",
            )
            taken = await heard(self._signals.failed(row.workflow_id, report), "failed", agent_id=row.agent_id)
            if taken:
                told += 1
                self._told.note(row.agent_id, row.attempt, FailureKind.CHANNEL_LOST)
        return told

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
        told = 0
        for row in rows:
            if self._told.lately(row.agent_id, row.attempt, reason):
                continue
            order = StopOrder(agent_id=row.agent_id, reason=reason)
            taken = await heard(self._signals.order_stop(row.workflow_id, order), "stop", agent_id=row.agent_id)
            if taken:
                told += 1
                self._told.note(row.agent_id, row.attempt, reason)
        return told


def _believed(lost: list[LivingRow], by_cluster: Mapping[str, tuple[int, int]]) -> list[LivingRow]:
    """All of them, but one of those of whom most are silent together: the first, which is silent longest."""
    spared, believed = set(), []
    for row in lost:
        company = silence.company(row.cluster, by_cluster)
        if company in spared:
            continue
        believed.append(row)
        if company.of_many:
            spared.add(company)
            log.error("reaper.silence_of_many", cluster=company.cluster, silent=company.silent, of=company.heard)
    return believed
