"""Places in line and what they are foretold to take, with a real database and a clock of the test's own."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from core.db.engine import Db
from core.db.models import Agent
from core.db.repositories import (
    admission,
    agents,
    clusters,
    credits,
    flows,
    moves,
    ordering,
    overrides,
    projects,
    queue,
    tallies,
    upkeep,
    users,
)
from core.db.repositories.agents import fact
from core.db.repositories.tallies import Measure
from core.domain.admission import Rules
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from core.domain.orders import StartRequest
from core.domain.templates import Pool
from core.domain.tiers import Tier, TierLimits
from core.ids import agent_workflow_id, new_agent_id

STEP = timedelta(minutes=10)


class Line:
    """A pool and its clock. Agents are named by user and project: `ann/shop`."""

    def __init__(self, db: Db) -> None:
        self.db = db
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.ageing: timedelta | None = None
        self.pool = Pool(runtime="memory", capacity=0)
        self.ids: dict[str, str] = {}

    async def user(self, name: str, tier: Tier = Tier.FREE) -> None:
        async with self.db.transaction() as session:
            await users.put(session, name, tier=tier.value)

    async def start(self, name: str, tier: Tier | None = None, after: float = 1) -> str:
        """A request that comes `after` minutes; the id of the agent."""
        self.now += timedelta(minutes=after)
        user, project = name.split("/")
        async with self.db.transaction() as session:
            await clusters.record_look(session, "local", self.now, total=1000, choked=False, detail={})
            await users.put(session, user, **({"tier": tier.value} if tier else {}))
            await projects.add(session, project, [user])
        ask = StartRequest(agent_id=new_agent_id(), user_id=user, project_id=project)
        rules = Rules(limits=TierLimits(free=3), max_waiting=1000, ageing=self.ageing)
        workflow_id = agent_workflow_id(user, project)
        async with self.db.transaction() as session:
            made = await admission.register(
                session, ask, workflow_id, None, self.pool, rules, timedelta(seconds=90), self.now
            )
        assert made.answer is not None
        assert made.answer.agent_id is not None, made.answer
        self.ids[made.answer.agent_id] = name
        return made.answer.agent_id

    async def order(self) -> list[str]:
        async with self.db.transaction() as session:
            places = await queue.positions(session, "default")
        assert sorted(places.values()) == list(range(1, len(places) + 1))
        return [self.ids[agent_id] for agent_id in sorted(places, key=lambda one: places[one])]

    async def grant(self, capacity: int, after: float = 0) -> Sequence[str]:
        """The pool takes so many, `after` minutes; who has a slot and was not heard of."""
        self.now += timedelta(minutes=after)
        self.pool = self.pool.model_copy(update={"capacity": capacity})
        async with self.db.transaction() as session:
            await clusters.record_look(session, "local", self.now, total=1000, choked=False, detail={})
            done = await queue.grant(session, "default", self.pool, TierLimits(free=3), self.now, 1000)
        return [self.ids[winner.agent_id] for winner in done.unseen]

    async def end(self, agent_id: str, after: float = 0) -> None:
        self.now += timedelta(minutes=after)
        async with self.db.transaction() as session:
            await flows.departed(session, "default", self.now)
            for to, kind in ((AgentState.DRAINING, EventKind.DRAINING), (AgentState.TERMINATED, EventKind.TERMINATED)):
                assert (await moves.move(session, agent_id, 1, to, self.now, fact(kind, to))).applied

    async def tier(self, user: str, tier: Tier) -> list[str]:
        async with self.db.transaction() as session:
            pools = await ordering.change_tier(session, user, tier, self.ageing)
            await users.put(session, user, tier=tier.value)
        return pools

    async def evict(self, name: str) -> None:
        user, project = name.split("/")
        async with self.db.transaction() as session:
            await credits.give(session, user, project, self.now)

    async def rows(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        async with self.db.transaction() as session:
            return [tuple(row) for row in (await session.execute(text(statement), values)).all()]


@pytest.fixture
def in_line(db: Db) -> Line:
    return Line(db)


async def test_of_one_tier_whoever_has_fewer_other_agents_goes_first(in_line: Line) -> None:
    for name in ("ann/a", "ann/b", "ann/c", "bob/a", "bob/b", "eve/a"):
        await in_line.start(name)
    assert await in_line.order() == ["ann/a", "bob/a", "eve/a", "ann/b", "bob/b", "ann/c"]
    # The key is fixed: what ends later changes nothing.
    await in_line.grant(1)
    await in_line.start("max/a")
    assert await in_line.order() == ["bob/a", "eve/a", "max/a", "ann/b", "bob/b", "ann/c"]


async def test_agent_of_the_same_project_that_is_ending_is_no_other_one(in_line: Line) -> None:
    in_line.pool = Pool(runtime="memory", capacity=1)
    first = await in_line.start("ann/a")
    await in_line.rows("UPDATE agents SET state = 'draining' WHERE agent_id = :a RETURNING 1", a=first)
    async with in_line.db.transaction() as session:
        living = [await session.get_one(Agent, first)]
        again = await ordering.turn_of(session, "ann", "a", living, None, in_line.now)
        other = await ordering.turn_of(session, "ann", "b", living, None, in_line.now)
    assert (again.others, other.others) == (0, 1)


async def test_grants_go_by_the_declared_order_with_ageing_too(in_line: Line) -> None:
    in_line.ageing = STEP
    for name, tier in (
        ("free/a", Tier.FREE),
        ("basic/a", Tier.BASIC),
        ("premium/a", Tier.PREMIUM),
        ("enterprise/a", Tier.ENTERPRISE),
    ):
        await in_line.start(name, tier)
    assert await in_line.order() == ["enterprise/a", "premium/a", "basic/a", "free/a"]
    await in_line.start("late/a", Tier.ENTERPRISE, after=30)
    assert await in_line.order() == ["enterprise/a", "premium/a", "basic/a", "free/a", "late/a"]
    granted: list[str] = []
    for capacity in range(1, 6):
        granted += [name for name in await in_line.grant(capacity) if name not in granted]
    assert granted == ["enterprise/a", "premium/a", "basic/a", "free/a", "late/a"]


@pytest.mark.parametrize("ageing", [None, STEP])
async def test_other_tier_moves_those_that_wait_and_keeps_when_they_came(
    in_line: Line, ageing: timedelta | None
) -> None:
    in_line.ageing = ageing
    for name, tier in (("eve/a", Tier.PREMIUM), ("ann/a", Tier.FREE), ("ann/b", Tier.FREE), ("bob/a", Tier.FREE)):
        await in_line.start(name, tier)
    before = await in_line.order()
    assert before == ["eve/a", "ann/a", "bob/a", "ann/b"] if ageing is None else ["eve/a", "ann/a", "ann/b", "bob/a"]
    assert await in_line.tier("bob", Tier.ENTERPRISE) == ["default"]
    assert (await in_line.order())[0] == "bob/a"
    assert await in_line.rows("SELECT DISTINCT tier FROM agents WHERE user_id = 'bob'") == [("enterprise",)]
    # The estimate was of another place, and is held against nothing.
    told = "SELECT wait_estimate_minutes, wait_low_minutes, wait_high_minutes FROM agents WHERE user_id = 'bob'"
    assert await in_line.rows(told) == [(None, None, None)]
    await in_line.tier("bob", Tier.FREE)
    assert await in_line.order() == before
    assert await in_line.tier("nobody", Tier.BASIC) == []


async def test_agents_that_do_not_wait_keep_the_tier_they_came_with(in_line: Line) -> None:
    await in_line.start("ann/a")
    await in_line.grant(1)
    assert await in_line.tier("ann", Tier.PREMIUM) == []
    assert await in_line.rows("SELECT tier FROM agents") == [("free",)]


async def test_evicted_user_goes_before_all_of_the_tier_who_came_after_the_eviction(in_line: Line) -> None:
    await in_line.start("early/a")
    await in_line.start("ann/other")
    await in_line.user("ann")
    await in_line.evict("ann/other")
    async with in_line.db.transaction() as session:
        await projects.add(session, "shop", [])
    await in_line.evict("ann/shop")
    await in_line.start("late/a")
    await in_line.start("first/a", Tier.BASIC)
    await in_line.start("ann/shop", after=25)
    assert await in_line.order() == ["first/a", "early/a", "ann/other", "ann/shop", "late/a"]
    # Of the two that ann had, the one for this project is used up.
    assert await in_line.rows("SELECT project_id FROM eviction_credits") == [("other",)]


async def test_eviction_makes_good_for_half_an_hour_and_is_then_forgotten(in_line: Line) -> None:
    await in_line.start("ann/shop")
    await in_line.rows("UPDATE agents SET state = 'cancelled' RETURNING 1")
    await in_line.evict("ann/shop")
    await in_line.start("bob/a")
    await in_line.start("ann/shop", after=29)
    assert await in_line.order() == ["bob/a", "ann/shop"]
    await in_line.evict("ann/shop")
    in_line.now += credits.LASTS
    async with in_line.db.transaction() as session:
        await upkeep.forget_old(session, in_line.now)
    assert await in_line.rows("SELECT 1 FROM eviction_credits") == []


async def test_eviction_written_twice_keeps_its_moment(in_line: Line) -> None:
    await in_line.start("ann/shop")
    await in_line.evict("ann/shop")
    first = in_line.now
    in_line.now += timedelta(minutes=5)
    await in_line.evict("ann/shop")
    async with in_line.db.transaction() as session:
        assert await credits.owed(session, "ann", "shop", in_line.now) == first
    in_line.now += credits.LASTS
    await in_line.evict("ann/shop")
    async with in_line.db.transaction() as session:
        assert await credits.owed(session, "ann", "shop", in_line.now) == in_line.now


async def test_refused_request_leaves_what_is_owed(in_line: Line) -> None:
    await in_line.start("ann/shop")
    await in_line.evict("ann/shop")
    await in_line.rows("UPDATE agents SET state = 'cancelled' RETURNING 1")
    await in_line.rows(
        "UPDATE users SET subscription_active_until = CAST(:at AS timestamptz) RETURNING 1", at=in_line.now
    )
    with pytest.raises(AssertionError, match="subscription_inactive"):
        await in_line.start("ann/shop")
    assert await in_line.rows("SELECT count(*) FROM eviction_credits") == [(1,)]


@pytest.mark.parametrize("ageing", [None, STEP])
async def test_with_ageing_on_nobody_starves_though_higher_tiers_keep_coming(
    in_line: Line, ageing: timedelta | None
) -> None:
    """One slot, an enterprise user more every three minutes, and as often the slot comes free."""
    in_line.ageing = ageing
    poor = await in_line.start("poor/a")
    for number in range(25):
        await in_line.start(f"rich{number}/a", Tier.ENTERPRISE, after=3)
        await in_line.start(f"richer{number}/a", Tier.ENTERPRISE, after=0)
        (holder,) = await in_line.grant(1)
        agent_id = next(one for one, name in in_line.ids.items() if name == holder)
        if agent_id == poor:
            break
        await in_line.end(agent_id)
    ((state,),) = await in_line.rows("SELECT state FROM agents WHERE user_id = 'poor'")
    # What it is behind is worth 30 minutes; those who came in that time go first, twice as many as are served.
    assert state == ("queued" if ageing is None else "starting")


async def test_ageing_turned_on_takes_those_along_who_wait_already(in_line: Line) -> None:
    await in_line.start("free/a")
    await in_line.start("basic/a", Tier.BASIC)
    in_line.ageing = STEP
    await in_line.start("late/a", Tier.BASIC, after=60)
    assert (await in_line.order())[0] == "late/a", "keys of two kinds: those without ageing would wait for ever"
    async with in_line.db.transaction() as session:
        assert await ordering.adopt_ageing(session, STEP) == ["default"]
        assert await ordering.adopt_ageing(session, STEP) == []
    assert await in_line.order() == ["basic/a", "free/a", "late/a"]
    async with in_line.db.transaction() as session:
        assert await ordering.adopt_ageing(session, None) == ["default"]
    assert await in_line.order() == ["basic/a", "late/a", "free/a"]


async def test_flow_counts_what_slots_were_held_and_who_came(in_line: Line) -> None:
    in_line.pool = Pool(runtime="memory", capacity=2)
    first = await in_line.start("ann/a")
    second = await in_line.start("bob/a", Tier.PREMIUM, after=3)
    await in_line.start("eve/a", after=2)
    await in_line.end(first, after=1)
    # One slot was held for six minutes and one for three, until the first of them came free.
    found = await in_line.rows("SELECT weight, mean_minutes, minutes, arrivals FROM life_statistics")
    # The very first request opens the account and is not counted: those of a time are counted, and it began with it.
    assert found == [(1, 9, 6, [0, 0.99, 0, 0.99])]
    await in_line.end(second, after=2)
    ((weight, mean, minutes, _),) = await in_line.rows(
        "SELECT weight, mean_minutes, minutes, arrivals FROM life_statistics"
    )
    assert (weight, minutes) == (1.99, pytest.approx(0.99 * 6 + 2))
    assert mean == pytest.approx((0.99 * 9 + 2) / 1.99)


async def test_wait_follows_what_was_measured_and_the_capacity_that_an_operator_left(in_line: Line) -> None:
    for name in ("ann/a", "bob/a", "eve/a"):
        await in_line.start(name)
    await in_line.grant(2)
    await in_line.rows(
        "INSERT INTO life_statistics (pool, mean_minutes, weight, minutes, counted_at)"
        " VALUES ('default', 8, 1000, 100, now())"
        " ON CONFLICT (pool) DO UPDATE SET mean_minutes = 8, weight = 1000, minutes = 100, counted_at = now()"
        " RETURNING 1"
    )

    pools = {"default": in_line.pool.model_copy(update={"capacity": 2})}
    rules = Rules(limits=TierLimits(), max_waiting=1000, pools=pools)

    async def told() -> int | None:
        async with in_line.db.transaction() as session:
            view = next(each for each in (await agents.page(session, "eve"))[0])
            return (await queue.with_wait(session, view, rules)).estimated_wait_minutes

    assert await told() == 5, "two slots of eight minutes: one departure in four, rounded up as time goes on"
    async with in_line.db.transaction() as session:
        await overrides.change(session, "default", capacity=0, paused=None)
    assert await told() == 13, "two more must go before the first is let in"


async def test_grant_is_held_against_what_was_told(in_line: Line) -> None:
    await in_line.start("ann/a")
    await in_line.start("bob/a", after=0)
    told = await in_line.rows("SELECT wait_estimate_minutes, wait_low_minutes, wait_high_minutes FROM agents")
    assert sorted(told) == [(10, 0, 20), (20, 5, 35)]
    await in_line.grant(1, after=12)
    await in_line.grant(2, after=38)
    # A clock that was put back: nobody waits less than no time.
    await in_line.start("eve/a")
    await in_line.grant(3, after=-100)
    async with in_line.db.transaction() as session:
        found = {(tally.measure, tally.bucket): (tally.count, tally.total) for tally in await tallies.all_of(session)}
    assert found == {
        (Measure.WAITED, "1"): (1, 0),
        (Measure.WAITED, "1200"): (1, 720),
        (Measure.WAITED, "3600"): (1, 3000),
        (Measure.ERROR, "2"): (1, 2),
        (Measure.ERROR, "10"): (1, 10),
        (Measure.ERROR, "30"): (1, 30),
        (Measure.RANGE, "within"): (2, 0),
        (Measure.RANGE, "later"): (1, 0),
    }
