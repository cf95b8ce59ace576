"""An agent's row, written for its workflow: each write is a state, its events and a NOTIFY in one transaction."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities import contracts, endings
from activities.contracts import Ended, Final, Life, Moved, Successor
from activities.hearing import wake_pools
from activities.ports import Meter, Signals, Unmetered
from activities.turns import Turns
from core.db.engine import Db
from core.db.repositories import admission, agents, alterations, clusters, commands, events, flows, locks, moves, queue
from core.db.repositories.agents import AgentView, fact
from core.db.repositories.upkeep import LivingRow
from core.domain.admission import RejectReason
from core.domain.events import EventKind
from core.domain.lifecycle import FINAL, WAITING, AgentState, EndReason
from core.domain.orders import StartAnswer, StartOutcome
from core.domain.recovery import ORDERED, FailureKind
from core.domain.templates import cluster_of
from core.errors import NotFound
from core.settings import Settings


def _now() -> datetime:
    return datetime.now(UTC)


def life_of(row: AgentView | LivingRow) -> Life:
    """The attempt that a row speaks of."""
    return Life(
        agent_id=row.agent_id,
        attempt=row.attempt,
        user_id=row.user_id,
        project_id=row.project_id,
        pool=row.pool,
        template=row.template,
        runtime=row.runtime,
    )


class LifeActivities:
    """Every method may run twice: the second finds the row where the first left it and says so."""

    def __init__(self, db: Db, settings: Settings, signals: Signals, meter: Meter | None = None) -> None:
        self._db = db
        self._turns = Turns(meter or Unmetered())
        self._settings = settings
        self._signals = signals
        self._pools = settings.all_pools()
        self._rules = settings.rules()

    @activity.defn(name="register")
    async def register(self, ask: contracts.Registration) -> contracts.Registered:
        """Decide a request and write its row; a refused one leaves only an event under its user, and none where it is
        about a pool, template or user that is not known here.

        Of what a terminated run has left, it ends what waits: nothing is made for it that would have to go first.
        """
        request = ask.request
        pool = self._pools.get(request.pool)
        if pool is None:
            return _refused(RejectReason.UNKNOWN_POOL.value)
        try:
            timings = self._settings.timings_of(request.template)
        except KeyError:
            return _refused(RejectReason.UNKNOWN_TEMPLATE.value)
        deadline = timedelta(seconds=timings.ready_deadline_seconds)
        try:
            async with self._db.transaction() as session:
                done = await admission.register(
                    session, request, ask.workflow_id, ask.predecessor, pool, self._rules, deadline, _now()
                )
        except NotFound as error:
            return _refused(error.error_code)
        life = Life(
            agent_id=request.agent_id,
            attempt=done.attempt,
            user_id=request.user_id,
            project_id=request.project_id,
            pool=request.pool,
            template=request.template,
            runtime=pool.runtime,
        )
        if done.forgotten is not None:
            life, timings = _named(life, done.forgotten), self._settings.timings_of_living(done.forgotten.template)
        waited = [_named(life, each) for each in done.leftovers if each.state in WAITING]
        if waited:
            for each in waited:
                await self.withdraw(Final(life=each, state=AgentState.CANCELLED, reason=EndReason.WORKFLOW_GONE))
            return await self.register(ask)
        if done.written and done.state is not None:
            self._turns.came(life, done.state, done.answer.reason if done.answer is not None else None)
        if done.state is AgentState.QUEUED:
            await self._wake([life.pool])
        return contracts.Registered(
            answer=done.answer,
            life=life if done.state is not None else None,
            state=done.state,
            begun=done.begun,
            timings=timings,
            leftovers=tuple(_named(life, each) for each in done.leftovers),
        )

    @activity.defn(name="begin")
    async def begin(self, ask: contracts.Begin) -> Moved:
        """Write that this attempt starts: after a grant, or the next one of a restart."""
        now = _now()
        deadline = now + timedelta(seconds=ask.deadline_seconds)
        async with self._db.single() as session:
            moved = await moves.begin(session, ask.life.agent_id, ask.life.attempt, now, deadline)
        self._turns.took(ask.life, moved, now)
        return _moved(moved)

    @activity.defn(name="mark_running")
    async def mark_running(self, life: Life) -> Moved:
        now = _now()
        ready = fact(EventKind.READY, AgentState.RUNNING, attempt=life.attempt)
        # Not from draining: a step that was lost, with a warning after it, is taken again, and that is no keep.
        moved = await self._move(
            life,
            AgentState.RUNNING,
            now,
            ready,
            only_from=AgentState.STARTING,
            ready_at=now,
            deadline_at=None,
            last_activity_at=now,
            reason=None,
        )
        await self._start_over(life)
        return moved

    @activity.defn(name="mark_restarting")
    async def mark_restarting(self, ask: contracts.Restarting) -> Moved:
        restarting = fact(
            EventKind.RESTARTING,
            AgentState.RESTARTING,
            ask.kind,
            detail=ask.detail,
            afterSeconds=ask.after_seconds,
            restart=ask.restarts,
        )
        # An attempt that failed is heard no more; one that is to be begun anew must still hear to save and leave.
        heard = {} if ask.kind in ORDERED else {"token_hash": None}
        async with self._db.transaction() as session:
            now = _now()
            # The agent's row before its commands, as everywhere: an answer that comes right now locks in that order.
            moved = await moves.move(
                session,
                ask.life.agent_id,
                ask.life.attempt,
                AgentState.RESTARTING,
                now,
                restarting,
                reason=ask.kind,
                restart_count=ask.restarts,
                deadline_at=now + timedelta(seconds=ask.after_seconds),
                away_from=ask.away_from,
                **heard,
            )
            if moved.applied:
                # What was asked of the attempt that is gone cannot be answered by the next one.
                await commands.abandon(session, ask.life.agent_id, None, now)
        self._turns.restarted(ask.life, moved, now, ask.kind, failed=ask.kind not in ORDERED)
        await self._start_over(ask.life)
        return _moved(moved)

    @activity.defn(name="mark_draining")
    async def mark_draining(self, ask: contracts.Draining) -> Moved:
        facts = [fact(EventKind.DRAINING, AgentState.DRAINING, ask.reason, detail=ask.detail, keepable=ask.keepable)]
        warning: dict[str, Any] = {}
        if ask.deadline_at is not None:
            warning = {"deadlineAt": ask.deadline_at.isoformat(), "keepable": ask.keepable}
            facts.insert(0, fact(EventKind.WARNING, AgentState.DRAINING, ask.reason, **warning))
        if ask.reason == EndReason.RESOURCE_PRESSURE:
            told = {**await self._strain(ask.life), **warning}
            facts.append(fact(EventKind.EVICTED, AgentState.DRAINING, ask.reason, detail=ask.detail, **told))
        moved = await self._move(
            ask.life,
            AgentState.DRAINING,
            _now(),
            *facts,
            reason=ask.reason,
            deadline_at=ask.deadline_at,
            keepable=ask.keepable,
        )
        await self._start_over(ask.life)
        return moved

    @activity.defn(name="mark_hastened")
    async def mark_hastened(self, ask: contracts.Draining) -> Moved:
        """Write another end of the grace, after a stop or an outage; a countdown that goes on is warned of anew."""
        told: dict[str, Any] = {"keepable": ask.keepable}
        if ask.deadline_at is not None:
            told["deadlineAt"] = ask.deadline_at.isoformat()
        kind = EventKind.DRAINING if ask.deadline_at is None else EventKind.WARNING
        hastened = fact(kind, AgentState.DRAINING, ask.reason, detail=ask.detail, **told)
        async with self._db.single() as session:
            moved = await moves.hasten(
                session, ask.life.agent_id, ask.life.attempt, _now(), ask.deadline_at, ask.keepable, hastened
            )
        return _moved(moved)

    @activity.defn(name="mark_kept")
    async def mark_kept(self, life: Life) -> Moved:
        """Write that a draining agent runs on, unless another has its place in the project."""
        now = _now()
        async with self._db.transaction() as session:
            place = await agents.current(session, life.user_id, life.project_id)
            if place is not None and place.agent_id != life.agent_id:
                # Perhaps one whom its workflow has forgotten: it is taken up when this life ends.
                return _moved(await moves.unmoved(session, life.agent_id))
            if await admission.project_is_full(session, life.project_id, self._rules):
                # Another of its members has begun one since, for which this one made room.
                return _moved(await moves.unmoved(session, life.agent_id))
            kept = fact(EventKind.KEPT, AgentState.RUNNING)
            changes = {"reason": None, "deadline_at": None, "keepable": False, "last_activity_at": now}
            moved = await moves.move(
                session,
                life.agent_id,
                life.attempt,
                AgentState.RUNNING,
                now,
                kept,
                only_from=AgentState.DRAINING,
                **changes,
            )
        self._turns.took(life, moved, now)
        return _moved(moved)

    @activity.defn(name="mark_resized")
    async def mark_resized(self, ask: contracts.Resized) -> Moved:
        """Write the size of this and all later attempts, with what it was before."""
        life = ask.life
        async with self._db.transaction() as session:
            # Without a state: the life may have moved on while its runtime was asked.
            told = events.Fact(
                kind=EventKind.RESIZED,
                reason="deferred" if ask.waits_for else None,
                detail={"before": ask.before.told(), "after": ask.size.told(), "detail": ask.waits_for},
            )
            moved = await alterations.resize(session, life.agent_id, ask.size, _now(), told)
        return _moved(moved)

    @activity.defn(name="mark_migrating")
    async def mark_migrating(self, ask: contracts.Migrating) -> Moved:
        """Write that a running agent will be begun on another machine, and when."""
        warning = fact(
            EventKind.WARNING,
            AgentState.RUNNING,
            FailureKind.MIGRATION,
            deadlineAt=ask.deadline_at.isoformat(),
            keepable=False,
            detail=f"it moves from {ask.node} to another machine",
        )
        life, why = ask.life, FailureKind.MIGRATION.value
        async with self._db.single() as session:
            moved = await alterations.warn_of_move(
                session, life.agent_id, life.attempt, _now(), ask.deadline_at, why, warning
            )
        return _moved(moved)

    @activity.defn(name="withdraw")
    async def withdraw(self, ask: Final) -> Ended:
        """Cancel a waiting agent. One that was granted a slot meanwhile ends by the legal way, nothing was made yet."""
        now = _now()
        async with self._db.transaction() as session:
            steps = await self._conclude(session, ask.model_copy(update={"state": AgentState.TERMINATED}), now)
            await queue.announce(session, ask.life.pool)
            # It held no slot perhaps, but its place in line may have held up those behind it.
            waiting = await self._may_go_now(session, ask.life)
            successor = await self._successor_of(session, ask.life)
        return await self._ended(ask, steps, now, waiting, successor)

    @activity.defn(name="finish")
    async def finish(self, ask: Final) -> Ended:
        """Write the end and give the slot back; whoever waits for room there, or for its user's quota, is told."""
        now = _now()
        async with self._db.transaction() as session:
            steps = await self._conclude(session, ask, now)
            waiting = await self._may_go_now(session, ask.life)
            successor = await self._successor_of(session, ask.life)
        return await self._ended(ask, steps, now, waiting, successor)

    async def _ended(
        self, ask: Final, steps: list[moves.Moved], at: datetime, waiting: list[str], successor: Successor | None
    ) -> Ended:
        for moved in steps:
            self._turns.took(ask.life, moved, at, ask.reason)
        await self._wake(waiting)
        return Ended(**dict(_moved(steps[-1])), successor=successor)

    async def _start_over(self, life: Life) -> None:
        """An agent starts no more, so that another may where only so many do at once. Asked again it wakes again."""
        cluster = self._cluster(life)
        if not any(pool.limits_starts for pool in self._pools.values() if pool.cluster == cluster):
            return
        async with self._db.single() as session:
            waiting = await queue.somebody_waits(session, cluster)
        await self._wake(waiting)

    async def _may_go_now(self, session: AsyncSession, life: Life) -> list[str]:
        """Pools to be told that `life` is over."""
        return await queue.somebody_waits(session, self._cluster(life), life.user_id)

    async def _wake(self, pools: Iterable[str]) -> None:
        await wake_pools(self._signals.wake_pool, pools)

    async def _strain(self, life: Life) -> dict[str, float]:
        """The memory for which an agent has to go, as its cluster was last seen."""
        async with self._db.single() as session:
            look = await clusters.last_look(session, self._cluster(life))
        if look is None or look.load.memory_percent is None:
            return {}
        return {"memoryPercent": round(look.load.memory_percent, 1), "memoryLimit": look.limits.memory_percent}

    def _cluster(self, life: Life) -> str:
        return cluster_of(self._pools, life.pool)

    async def _successor_of(self, session: AsyncSession, life: Life) -> Successor | None:
        """Who waits behind `life`, read with its end: a workflow may have forgotten whom it had registered."""
        row = await agents.behind(session, life.user_id, life.project_id, life.agent_id)
        if row is None:
            return None
        try:
            timings = self._settings.timings_of(row.template)
        except KeyError:
            # The settings know its template no more: it cannot be made, and the reaper ends it.
            return None
        return Successor(life=life_of(row), state=row.state, timings=timings, waits_for=row.reason)

    async def _move(self, life: Life, to: AgentState, at: datetime, *facts: events.Fact, **changes: Any) -> Moved:
        async with self._db.single() as session:
            moved = await moves.move(session, life.agent_id, life.attempt, to, at, *facts, **changes)
        self._turns.took(life, moved, at, changes.get("reason"))
        return _moved(moved)

    async def _conclude(self, session: AsyncSession, ask: Final, now: datetime) -> list[moves.Moved]:
        """Any living state to its end by legal edges, under the cluster's lock so that no freed slot is missed.

        Returns every step, the one to the end last.
        """
        life = ask.life
        steps: list[moves.Moved] = []
        await locks.cluster(session, self._cluster(life))
        row = await agents.lock(session, life.agent_id)
        if row is None:
            raise NotFound("no such agent")
        state = AgentState(row.state)
        if state in FINAL or row.attempt != life.attempt:
            return [moves.Moved(applied=False, state=state, attempt=row.attempt)]
        to = ask.state
        if state in WAITING:
            to = AgentState.CANCELLED
        elif state is AgentState.DRAINING:
            to = AgentState.TERMINATED
        elif to is AgentState.TERMINATED:
            drain = fact(EventKind.DRAINING, AgentState.DRAINING, ask.reason, detail=ask.detail)
            steps.append(
                await moves.move(
                    session, life.agent_id, life.attempt, AgentState.DRAINING, now, drain, reason=ask.reason
                )
            )
        if ask.reason == FailureKind.UNSCHEDULABLE:
            await clusters.note_refusal(session, self._cluster(life), life.pool, now)
        elif row.ready_at is not None:
            # It had a machine, so that one has a place now; the end of one that never had any frees nothing.
            await clusters.forget_refusals(session, self._cluster(life))
        # The whole life, from the slot on: every attempt has a start of its own.
        held = moves.held_seconds(row, now) if row.started_at is not None or row.usage else None
        usage = await endings.usage_of(session, life.agent_id, held, ask.usage)
        left = await endings.left_behind(session, life.agent_id)
        if row.admitted_at is not None:
            await flows.departed(session, life.pool, now)
        kind = {AgentState.FAILED: EventKind.FAILED, AgentState.CANCELLED: EventKind.CANCELLED}.get(
            to, EventKind.TERMINATED
        )
        end = fact(kind, to, ask.reason, detail=ask.detail, usage=usage, **left)
        moved = await moves.move(session, life.agent_id, life.attempt, to, now, end, reason=ask.reason, usage=usage)
        return [*steps, moved]


def _moved(moved: moves.Moved) -> Moved:
    return Moved(applied=moved.applied, state=moved.state, attempt=moved.attempt)


def _named(life: Life, left: admission.Leftover) -> Life:
    """One that was left behind in the place of `life`."""
    return life.model_copy(update=left.model_dump(exclude={"state"}))


def _refused(reason: str) -> contracts.Registered:
    return contracts.Registered(answer=StartAnswer(outcome=StartOutcome.REJECTED, reason=reason))
