"""The queue as a machine: whatever is done to it in whatever order, it says and does what a plain list would."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from core.db.engine import Db
from core.db.models import Agent
from core.db.repositories import (
    admission,
    agents,
    clusters,
    credits,
    explanations,
    flows,
    moves,
    ordering,
    overrides,
    queue,
    users,
)
from core.db.repositories.agents import fact
from core.domain.admission import Create, Queue, decide
from core.domain.events import EventKind
from core.domain.lifecycle import FINAL, AgentState
from core.domain.orders import StartOutcome, StartRequest
from core.domain.templates import Pool
from core.domain.tiers import Tier
from core.ids import agent_workflow_id
from tests.integration.plain_queue import LIMITS, POOLS, PROJECTS, USERS, Known, Leaving, Plain
from tests.integration.queue_rows import begin, passes

Answer = TypeVar("Answer")
DEADLINE = timedelta(seconds=90)
_PLACES = st.tuples(st.sampled_from(USERS), st.sampled_from(PROJECTS), st.sampled_from(POOLS))
_SELDOM = st.sampled_from([False, False, False, True])


class QueueMachine(RuleBasedStateMachine):
    """Two pools share a cluster. Words to the workflows are lost or late as it falls; the rows are what counts."""

    def __init__(self, runner: asyncio.Runner, db: Db) -> None:
        super().__init__()
        self._runner, self._db = runner, db

    def _do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(work)

    @initialize(
        tiers=st.lists(st.sampled_from(Tier), min_size=6, max_size=6),
        ageing=st.sampled_from([None, 60, 600]),
        starting=st.sampled_from([None, 1, 2]),
        crowd=st.lists(_PLACES, min_size=5, max_size=10),
    )
    def begin(
        self, tiers: list[Tier], ageing: int | None, starting: int | None, crowd: list[tuple[str, str, str]]
    ) -> None:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        self.plain = Plain(
            now=start,
            ageing=None if ageing is None else timedelta(seconds=ageing),
            tiers=dict(zip(USERS, tiers, strict=True)),
            total=4,
            choked=False,
            measured_at=start,
            pools=dict.fromkeys(POOLS, Pool(runtime="memory", max_starting=starting)),
            capacity=dict.fromkeys(POOLS, 1),
        )
        self._do(begin(self._db, self.plain))
        for place in crowd:
            self._arrive(*place)

    # ---- what users do ----------------------------------------------------------------------------------------------

    @rule(crowd=st.lists(_PLACES, min_size=2, max_size=6), lost=_SELDOM)
    def start(self, crowd: list[tuple[str, str, str]], lost: bool) -> None:
        """Several, and the pools are told, or their word is lost."""
        for place in crowd:
            self._arrive(*place)
        if not lost:
            self._wake()

    def _arrive(self, user: str, project: str, pool: str) -> None:
        mine = [each for each in self.plain.living if (each.user, each.project) == (user, project)]
        if any(each.state is not AgentState.DRAINING for each in mine):
            return  # its workflow answers for it
        self.plain.now += timedelta(seconds=1)
        self._do(self._start(user, project, pool, mine[0].agent_id if mine else None))

    async def _start(self, user: str, project: str, pool: str, predecessor: str | None) -> None:
        plain = self.plain
        theirs = [each for each in plain.living if each.user == user]
        expected = decide(plain.standing(user, same_project_ending=predecessor is not None), plain.room(pool))
        rules = self.plain.rules()
        plain.came += 1
        # Not a random one: the same steps must lead to the same order.
        request = StartRequest(agent_id=f"ag-{plain.came:05}", user_id=user, project_id=project, pool=pool)
        async with self._db.transaction() as session:
            said = await explanations.explain(session, user, project, pool, plain.pools[pool], rules, plain.now)
        async with self._db.transaction() as session:
            workflow_id = agent_workflow_id(user, project)
            made = await admission.register(
                session, request, workflow_id, predecessor, plain.pools[pool], rules, DEADLINE, plain.now
            )
            assert made.answer is not None
            place, left = await queue.positions(session, pool), await credits.owed(session, user, project, plain.now)
        assert said.decision == expected
        if not isinstance(expected, Queue | Create):
            assert made.answer.outcome is StartOutcome.REJECTED
            return
        assert left is None, "what was owed is used up"
        created = isinstance(expected, Create)
        assert made.answer.outcome is (StartOutcome.CREATED if created else StartOutcome.QUEUED)
        evicted_at = plain.owed.pop((user, project), None)
        if evicted_at is not None and evicted_at + credits.LASTS <= plain.now:
            evicted_at = None
        known = Known(
            agent_id=request.agent_id,
            user=user,
            project=project,
            pool=pool,
            tier=plain.tiers[user],
            others=0 if evicted_at else sum(each.project != project for each in theirs),
            since=evicted_at or plain.now,
            request=request,
            state=AgentState.STARTING if created else AgentState.QUEUED,
            seen=created,
        )
        plain.living.append(known)
        assert sum(each.state is not AgentState.DRAINING for each in theirs) < LIMITS.of(plain.tiers[user])
        if not created:
            assert said.place is not None
            assert said.place.position == place[request.agent_id]

    @precondition(lambda self: self.plain.living)
    @rule(which=st.integers(0, 30))
    def same_request_again(self, which: int) -> None:
        """A worker died after it had registered: the same words a second time change nothing."""
        known = self.plain.living[which % len(self.plain.living)]

        async def again() -> None:
            rules = self.plain.rules()
            workflow_id = agent_workflow_id(known.user, known.project)
            async with self._db.transaction() as session:
                pool = self.plain.pools[known.pool]
                made = await admission.register(
                    session, known.request, workflow_id, None, pool, rules, DEADLINE, self.plain.now
                )
            assert made.answer is not None
            assert made.answer.agent_id == known.agent_id

        self._do(again())

    @rule(user=st.sampled_from(USERS), tier=st.sampled_from(Tier))
    def change_tier(self, user: str, tier: Tier) -> None:
        async def change() -> list[str]:
            async with self._db.transaction() as session:
                pools = await ordering.change_tier(session, user, tier, self.plain.ageing)
                await users.put(session, user, tier=tier.value)
            return pools

        waiting = self.plain.of(AgentState.QUEUED, user=user)
        assert self._do(change()) == sorted({each.pool for each in waiting})
        self.plain.tiers[user] = tier
        for each in waiting:
            each.tier = tier
        self._wake()

    @rule(user=st.sampled_from(USERS), unpaid=_SELDOM)
    def pay_or_not(self, user: str, unpaid: bool) -> None:
        self.plain.unpaid = self.plain.unpaid | {user} if unpaid else self.plain.unpaid - {user}
        until = self.plain.now if unpaid else None

        async def put() -> None:
            async with self._db.transaction() as session:
                await users.put(session, user, subscription_active_until=until)

        self._do(put())

    # ---- who comes to be usable, and who leaves ----------------------------------------------------------------------

    @precondition(lambda self: self.plain.of(AgentState.STARTING))
    @rule(which=st.integers(0, 30), lost=_SELDOM)
    def be_usable(self, which: int, lost: bool) -> None:
        """Where only so many start at once, the next may."""
        starting = self.plain.of(AgentState.STARTING)
        known = starting[which % len(starting)]
        if not known.seen:
            self._hear(known)
        self._move(known, AgentState.RUNNING)
        if not lost:
            self._wake()

    @precondition(lambda self: self.plain.living)
    @rule(goes=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(Leaving)), min_size=1, max_size=5), lost=_SELDOM)
    def leave(self, goes: list[tuple[int, Leaving]], lost: bool) -> None:
        for which, how in goes:
            if not self.plain.living:
                break
            # Mostly those that hold a slot: they are counted first.
            found = [*self.plain.holders(), *self.plain.of(AgentState.QUEUED)]
            known = found[which % len(found)]
            match known.state:
                case AgentState.QUEUED:
                    self._move(known, AgentState.CANCELLED)
                case AgentState.DRAINING:
                    self._move(known, AgentState.TERMINATED)
                case _:
                    self._drain(known, how)
        if not lost:
            self._wake()

    def _drain(self, known: Known, how: Leaving) -> None:
        self._move(known, AgentState.DRAINING)
        if how is Leaving.EVICTED:
            self._do(self._evict(known))
        if how is Leaving.WANTED_AGAIN:
            self._arrive(known.user, known.project, known.pool)
        elif how is not Leaving.SLOWLY:
            self._move(known, AgentState.TERMINATED)

    async def _evict(self, known: Known) -> None:
        plain, place = self.plain, (known.user, known.project)
        async with self._db.transaction() as session:
            await credits.give(session, *place, plain.now)
        if place not in plain.owed or plain.owed[place] + credits.LASTS <= plain.now:
            plain.owed[place] = plain.now

    def _move(self, known: Known, to: AgentState) -> None:
        kind = {
            AgentState.RUNNING: EventKind.READY,
            AgentState.CANCELLED: EventKind.CANCELLED,
            AgentState.TERMINATED: EventKind.TERMINATED,
        }

        async def move() -> None:
            async with self._db.transaction() as session:
                if to is AgentState.TERMINATED:
                    await flows.departed(session, known.pool, self.plain.now)
                told = fact(kind.get(to, EventKind.DRAINING), to)
                assert (await moves.move(session, known.agent_id, 1, to, self.plain.now, told)).applied

        self._do(move())
        known.state = to
        if to in FINAL:
            self.plain.living.remove(known)

    # ---- what operators and machines do -----------------------------------------------------------------------------

    @rule(
        pool=st.sampled_from(POOLS),
        capacity=st.sampled_from([3, 2, 1, 4, 0]),
        pause=_SELDOM,
    )
    def resize(self, pool: str, capacity: int, pause: bool) -> None:
        """Also below those who hold a slot. A pause is taken back by the next time."""

        async def override() -> None:
            async with self._db.transaction() as session:
                await overrides.change(session, pool, capacity=capacity, paused=pause)

        self._do(override())
        self.plain.capacity[pool] = capacity
        self.plain.paused = self.plain.paused | {pool} if pause else self.plain.paused - {pool}
        self._wake()

    @rule(total=st.sampled_from([5, 8, 4, 3, 0]), choked=_SELDOM)
    def more_or_less_room(self, total: int, choked: bool) -> None:
        self._look(total, choked)
        self._wake()

    def _look(self, total: int, choked: bool) -> None:
        plain = self.plain
        plain.total, plain.choked, plain.measured_at = total, choked, plain.now

        async def record() -> None:
            async with self._db.transaction() as session:
                await clusters.record_look(session, "local", plain.now, total=total, choked=choked, detail={})

        self._do(record())

    @rule(seconds=st.sampled_from([1, 30, 61, 600, 1800]), unseen=_SELDOM)
    def time_passes(self, seconds: int, unseen: bool) -> None:
        """The clock goes forward; when nobody looked at the cluster meanwhile, nothing is known of it."""
        self.plain.now += timedelta(seconds=seconds)
        if not unseen:
            self._look(self.plain.total, self.plain.choked)

    # ---- grants and the words about them ----------------------------------------------------------------------------

    @rule(pools=st.permutations(POOLS), heard=st.booleans(), closed=_SELDOM)
    def grant(self, pools: list[str], heard: bool, closed: bool) -> None:
        """Passes until nothing is given, as the pool's workflow makes them; the words may all be lost with a worker."""
        if not closed:
            self._look(self.plain.total, choked=False)
        for pool in pools:
            self._grant_in(pool, heard)

    def _wake(self) -> None:
        for pool in POOLS:
            if self.plain.line(pool):
                self._grant_in(pool, heard=False)

    def _grant_in(self, pool: str, heard: bool) -> None:
        expected, before = self.plain.winners(pool), len(self.plain.holders(pool))
        given, unseen = self._do(passes(self._db, self.plain, pool))
        assert given == [each.agent_id for each in expected], "not the first who may, or not as many as there is room"
        for each in expected:
            each.state = AgentState.STARTING
            assert len(self.plain.holders(user=each.user)) <= LIMITS.of(self.plain.tiers[each.user])
        assert len(self.plain.holders(pool)) <= max(self.plain.capacity[pool], before)
        deaf = [each for each in self.plain.of(AgentState.STARTING, pool=pool) if not each.seen]
        assert unseen == {each.agent_id for each in deaf}, "who was not heard of is named on every pass"
        if heard:
            for each in deaf:
                self._hear(each)

    @precondition(lambda self: self.plain.of(AgentState.STARTING))
    @rule(which=st.integers(0, 30))
    def word_comes_late_or_twice(self, which: int) -> None:
        holding = self.plain.of(AgentState.STARTING)
        self._hear(holding[which % len(holding)])

    def _hear(self, known: Known) -> None:
        async def begin() -> bool:
            async with self._db.transaction() as session:
                now = self.plain.now
                return (await moves.begin(session, known.agent_id, 1, now, now + DEADLINE)).applied

        assert self._do(begin()) is not known.seen
        known.seen = True

    # ---- after every step -------------------------------------------------------------------------------------------

    @invariant()
    def database_agrees(self) -> None:
        if hasattr(self, "plain"):
            self._do(self._agrees())

    async def _agrees(self) -> None:
        plain = self.plain
        living = select(Agent).where(Agent.state.not_in(["terminated", "cancelled", "failed"]))
        async with self._db.transaction() as session:
            rows = (await session.scalars(living)).all()
            work = await queue.pools_with_work(session)
            rules = plain.rules()
            shown = await queue.all_with_wait(session, [agents.view(row) for row in rows], rules)
            waiting = [each for each in shown if each.waiting]
            last = await queue.with_wait(session, agents.view(rows[-1]), rules) if rows else None
        assert sorted((row.agent_id, row.state) for row in rows) == sorted(
            (each.agent_id, each.state.value) for each in plain.living
        ), "somebody is lost, doubled, or where nobody put them"
        line = {each.agent_id: place for pool in POOLS for place, each in enumerate(plain.line(pool), 1)}
        assert {each.agent_id: each.position for each in waiting} == line
        assert last is None or last.position == line.get(last.agent_id)
        for pool in POOLS:
            unseen = any(not each.seen for each in plain.of(AgentState.STARTING, pool=pool))
            assert (pool in work) == bool(plain.line(pool) or unseen)
        for each in waiting:
            low, high = each.estimated_wait or (-1, -1)
            assert 0 <= low <= (each.estimated_wait_minutes or 0) <= high


_SETTINGS = settings(
    max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_queue_does_what_a_plain_list_would_whatever_is_done_to_it(database_url: str) -> None:
    with asyncio.Runner() as runner:
        opened = AsyncExitStack()
        db = runner.run(opened.enter_async_context(Db.open(database_url, application="test", pool_size=2)))

        class Here(QueueMachine):
            def __init__(self) -> None:
                super().__init__(runner, db)

        try:
            run_state_machine_as_test(Here, settings=_SETTINGS)
        finally:
            runner.run(opened.aclose())
