"""What is known of a cluster: when its door is shut, by what, and until when."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from core.db.engine import Db
from core.db.repositories import admission, clusters, events, projects, queue, users
from core.domain.admission import Rules
from core.domain.orders import StartAnswer, StartOutcome, StartRequest
from core.domain.room import Room, Snapshot, Starts
from core.domain.templates import Pool
from core.domain.thresholds import Load, Look, Measure, Thresholds, over
from core.domain.tiers import Tier, TierLimits
from core.ids import agent_workflow_id, new_agent_id

LIMITS = TierLimits()
POOL = Pool(runtime="memory")


def now() -> datetime:
    return datetime.now(UTC)


async def look(
    db: Db,
    total: int | None = 10,
    *,
    at: datetime | None = None,
    too_large: dict[str, str] | None = None,
    **load: float,
) -> bool:
    """Store a look; whether there may be more room than before."""
    seen = Look(agents=0, load=Load.model_validate(load), limits=Thresholds(), too_large=too_large or {})
    seen = seen.model_copy(update={"over": over(seen.load, seen.limits)})
    async with db.transaction() as session:
        return await clusters.record_look(
            session, "local", at or now(), total=total, choked=seen.choked, detail=seen.stored()
        )


async def room(
    db: Db, *, pool: str = "default", at: datetime | None = None, template: str | None = None, **settings: int
) -> Room:
    async with db.transaction() as session:
        return await clusters.room(session, pool, POOL.model_copy(update=settings), at or now(), 1000, template)


async def refuse(db: Db, pool: str = "default", at: datetime | None = None) -> None:
    async with db.transaction() as session:
        await clusters.note_refusal(session, "local", pool, at or now())


async def register(
    db: Db, user: str, project: str = "shop", members: Sequence[str] = (), most: int | None = None, template: str = "x"
) -> StartAnswer:
    async with db.transaction() as session:
        for each in {user, *members}:
            await users.put(session, each, tier=Tier.BASIC.value)
            await projects.add(session, project, [each])
    request = StartRequest(agent_id=new_agent_id(), user_id=user, project_id=project, template=template)
    rules = Rules(limits=LIMITS, max_waiting=1000, max_project_agents=most)
    async with db.transaction() as session:
        done = await admission.register(
            session, request, agent_workflow_id(user, project), None, POOL, rules, timedelta(seconds=90), now()
        )
    assert done.answer is not None
    return done.answer


async def test_look_that_comes_late_takes_nothing_back_of_a_newer_one(db: Db) -> None:
    """Two workers look, each for itself, and one of them shows for a while what it saw before."""
    assert await look(db, total=9)
    assert not await look(db, total=10, at=now() - timedelta(seconds=20))
    assert (await room(db)).cluster_free == 9


async def test_look_of_a_clock_that_is_far_ahead_stands_in_nobodys_way(db: Db) -> None:
    await look(db, total=9, at=now() + timedelta(hours=1))
    assert await look(db, total=10)
    assert (await room(db)).cluster_free == 10


async def test_look_that_is_missing_old_or_cannot_count_is_told_apart(db: Db) -> None:
    assert (await room(db)).snapshot is Snapshot.UNKNOWN
    await look(db, total=None)
    assert (await room(db)).snapshot is Snapshot.UNKNOWN
    await look(db)
    fresh, old = await room(db), await room(db, at=now() + timedelta(seconds=61))
    assert (fresh.snapshot, fresh.cluster_free) == (Snapshot.FRESH, 10)
    assert (old.snapshot, old.cluster_free) == (Snapshot.STALE, None)


async def test_look_after_a_time_without_any_lets_the_queues_look_again(db: Db) -> None:
    first = now()
    await look(db, at=first)
    assert not await look(db, at=first + timedelta(seconds=50))
    assert await look(db, at=first + timedelta(seconds=120)), "whoever came meanwhile was told that nobody knows"


async def test_starts_are_counted_by_pool_and_by_cluster_and_their_limit_grows_with_the_machines(db: Db) -> None:
    await look(db, nodes=3)
    for user in ("ann", "bob"):
        await register(db, user)
    here, there = await room(db, max_starting=5), await room(db, pool="side", max_starting=5)
    assert (here.starts, there.starts) == (Starts(now=2, most=5), Starts(now=0, most=5))
    there = await room(db, pool="side", max_starting=5, max_starting_per_node=1)
    assert there.starts_in_cluster == Starts(now=2, most=3)
    assert (there.starts_left, there.starts_at_once) == (1, 3)
    await look(db, nodes=1)
    assert (await room(db, max_starting_per_node=1)).starts_left == 0
    async with db.transaction() as session:
        await session.execute(text("UPDATE agents SET state = 'running' WHERE user_id = 'ann'"))
    assert (await room(db, max_starting=5)).starts.now == 1


async def test_room_tells_what_shuts_the_door(db: Db) -> None:
    await look(db, cpu_percent=20, memory_percent=93)
    found = await room(db)
    assert found.choked
    assert found.over(Measure.MEMORY)
    assert not found.over(Measure.CPU)


async def test_verdict_of_the_scheduler_closes_its_pool_alone_and_not_for_ever(db: Db) -> None:
    await look(db)
    await refuse(db)
    assert (await room(db)).refused
    assert not (await room(db, pool="other")).refused
    await look(db, at=now() + timedelta(minutes=6))
    assert not (await room(db, at=now() + timedelta(minutes=6))).refused


async def test_verdict_is_forgotten_when_more_fits_a_machine_comes_or_a_slot_frees(db: Db) -> None:
    await look(db)
    await refuse(db)
    # The refused agent itself went away: no more room than before.
    assert not await look(db, total=9)
    assert (await room(db)).refused
    assert await look(db, total=10)
    assert not (await room(db)).refused
    await refuse(db)
    assert await look(db, total=10, nodes=2)
    assert not (await room(db)).refused
    await refuse(db)
    async with db.transaction() as session:
        await clusters.forget_refusals(session, "local")
    assert not (await room(db)).refused


async def test_refused_pool_grants_nothing_and_says_no_suitable_node(db: Db) -> None:
    await look(db)
    await refuse(db)
    answer = await register(db, "ann")
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, "no_suitable_node")
    async with db.transaction() as session:
        assert (await queue.grant(session, "default", POOL, LIMITS, now(), 1000)).granted == 0
    await look(db, total=11)
    async with db.transaction() as session:
        assert (await queue.grant(session, "default", POOL, LIMITS, now(), 1000)).granted == 1


async def test_template_no_machine_could_run_is_refused_at_once_with_the_runtimes_sentence(db: Db) -> None:
    await look(db, memory_percent=99, too_large={"huge": "a template asks for 900 cores, this machine has 2"})
    answer = await register(db, "ann", template="huge")
    assert (answer.outcome, answer.reason) == (StartOutcome.REJECTED, "never_satisfiable")
    assert answer.action == "choose_smaller_template"
    async with db.transaction() as session:
        [event] = await events.of_user(session, "ann", 0)
    assert (event.kind, event.reason) == ("agent.rejected", "never_satisfiable")
    assert event.detail["detail"] == "a template asks for 900 cores, this machine has 2"
    assert (await register(db, "ann")).outcome is StartOutcome.QUEUED
    # An old look says nothing of machines that may have come since.
    assert (await room(db, template="huge")).too_large is not None
    assert (await room(db, template="huge", at=now() + timedelta(seconds=61))).too_large is None


async def test_project_has_as_many_agents_as_it_may_whoever_asks(db: Db) -> None:
    await look(db)
    assert (await register(db, "ann", most=2)).outcome is StartOutcome.CREATED
    assert (await register(db, "bob", most=2)).outcome is StartOutcome.CREATED
    answer = await register(db, "cat", most=2)
    assert (answer.outcome, answer.reason) == (StartOutcome.REJECTED, "max_project_agents_exceeded")
    assert (await register(db, "cat", "bank", most=2)).outcome is StartOutcome.CREATED
    assert (await register(db, "cat")).outcome is StartOutcome.CREATED
