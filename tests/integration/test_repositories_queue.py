"""Registering, granting and moving agents, with a real database and many hands at once."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from core.db.engine import Db
from core.db.repositories import admission, clusters, events, idempotency, moves, projects, queue, users
from core.db.repositories.admission import Registered
from core.db.repositories.agents import fact
from core.domain.admission import Rules
from core.domain.events import EventKind
from core.domain.lifecycle import FINAL, AgentState, legal
from core.domain.orders import SCHEDULED_KEY, StartOutcome, StartRequest
from core.domain.queueing import order_key
from core.domain.templates import Pool
from core.domain.tiers import Tier, TierLimits
from core.errors import InvalidRequest, NotFound
from core.ids import agent_workflow_id, new_agent_id

RULES = Rules(limits=TierLimits(), max_waiting=1000)
LIMITS = TierLimits()
START = datetime.now(UTC)
DRAINS = fact(EventKind.DRAINING, AgentState.DRAINING)

Register = Callable[..., Awaitable[Registered]]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def register(db: Db) -> Register:
    """Register a request; makes user and project. `at` is when it comes, `room` what the cluster has."""
    async with db.transaction() as session:
        await clusters.record_look(session, "local", now(), total=1000, choked=False, detail={})

    async def one(
        user: str = "ann",
        project: str = "shop",
        *,
        tier: Tier = Tier.FREE,
        capacity: int | None = 1000,
        at: datetime | None = None,
        request: StartRequest | None = None,
        predecessor: str | None = None,
    ) -> Registered:
        async with db.transaction() as session:
            await users.put(session, user, tier=tier.value)
            await projects.add(session, project, [user])
        ask = request or StartRequest(agent_id=new_agent_id(), user_id=user, project_id=project)
        pool = Pool(runtime="memory", capacity=capacity)
        async with db.transaction() as session:
            return await admission.register(
                session,
                ask,
                agent_workflow_id(user, project),
                predecessor,
                pool,
                RULES,
                timedelta(seconds=90),
                at or now(),
            )

    return one


async def grant(db: Db, capacity: int) -> queue.Pass:
    async with db.transaction() as session:
        return await queue.grant(session, "default", Pool(runtime="memory", capacity=capacity), LIMITS, now(), 1000)


async def move(db: Db, agent_id: str, to: AgentState, attempt: int = 1) -> moves.Moved:
    kind = {AgentState.TERMINATED: EventKind.TERMINATED, AgentState.CANCELLED: EventKind.CANCELLED}
    async with db.transaction() as session:
        return await moves.move(
            session, agent_id, attempt, to, now(), fact(kind.get(to, EventKind.DRAINING), to), reason="a test"
        )


async def rows(db: Db, statement: str, **values: object) -> list[tuple[object, ...]]:
    async with db.transaction() as session:
        return [tuple(row) for row in (await session.execute(text(statement), values)).all()]


async def test_hundred_registrations_at_once_make_one_agent_of_a_free_user(db: Db, register: Register) -> None:
    await register("ann", "first", capacity=0)
    await rows(db, "DELETE FROM agents RETURNING 1")
    done = await asyncio.gather(*(register("ann", f"project{n}") for n in range(100)))
    outcomes = Counter(one.answer.outcome for one in done if one.answer)
    assert outcomes == {StartOutcome.CREATED: 1, StartOutcome.REJECTED: 99}
    assert await rows(db, "SELECT count(*) FROM agents") == [(1,)]


async def test_registrations_of_many_users_at_once_never_exceed_the_capacity(db: Db, register: Register) -> None:
    done = await asyncio.gather(*(register(f"user{n}", capacity=7) for n in range(30)))
    outcomes = Counter(one.answer.outcome for one in done if one.answer)
    assert outcomes == {StartOutcome.CREATED: 7, StartOutcome.QUEUED: 23}


async def test_request_behind_an_ending_life_is_answered_with_whom_waits_there_already(
    db: Db, register: Register
) -> None:
    first, second = await register(), StartRequest(agent_id=new_agent_id(), user_id="ann", project_id="shop")
    assert first.answer is not None
    ending = first.answer.agent_id or ""
    await move(db, ending, AgentState.DRAINING)
    waits = await register(request=second, predecessor=ending)
    found = await register(predecessor=ending)
    assert (found.answer, found.state, found.leftovers) == (waits.answer, AgentState.QUEUED, ())
    assert found.forgotten is not None
    assert found.forgotten.agent_id == second.agent_id
    # Also when it was granted this very moment: its predecessor's workflow has not heard of its own end yet.
    await move(db, ending, AgentState.TERMINATED)
    assert (await grant(db, 10)).granted == 1
    assert (await register(predecessor=ending)).state is AgentState.STARTING
    # To a run that has no life of its own it is what another run left behind.
    left = await register()
    assert (left.answer, [row.agent_id for row in left.leftovers]) == (None, [second.agent_id])


async def test_same_request_registered_again_gets_the_same_answer_and_no_second_event(
    db: Db, register: Register
) -> None:
    request = StartRequest(agent_id=new_agent_id(), user_id="ann", project_id="shop")
    first = await register(request=request)
    assert await register(request=request) == first.model_copy(update={"written": False})
    assert first.begun
    assert first.written
    assert await rows(db, "SELECT max(seq), count(*) FROM events") == [(4, 4)]


async def test_request_that_was_granted_before_it_was_registered_again_is_still_to_begin(
    db: Db, register: Register
) -> None:
    request = StartRequest(agent_id=new_agent_id(), user_id="ann", project_id="shop")
    assert not (await register(request=request, capacity=0)).begun
    assert (await grant(db, 1)).granted == 1
    again = await register(request=request)
    assert (again.state, again.begun) == (AgentState.STARTING, False)


async def test_who_is_refused_again_and_again_is_answered_each_time_and_told_once_a_minute(
    db: Db, register: Register
) -> None:
    await register("ann", "bank")
    for seconds in (0, 1, 59, 61, 62):
        refused = await register("ann", "shop", at=now() + timedelta(seconds=seconds))
        assert refused.answer is not None
        assert refused.answer.outcome is StartOutcome.REJECTED
    await register("ann", "farm")
    booked = StartRequest(
        agent_id=new_agent_id(), user_id="ann", project_id="farm", key=f"{SCHEDULED_KEY}ss-1", body_hash=""
    )
    # Its user hears of it by this alone.
    await register(request=booked)
    told = await rows(db, "SELECT project_id, count(*) FROM events WHERE kind = 'agent.rejected' GROUP BY 1 ORDER BY 1")
    assert told == [("farm", 2), ("shop", 2)]


async def test_refused_key_stays_refused_and_leaves_one_event(db: Db, register: Register) -> None:
    await register("ann", "bank")
    keyed = [
        StartRequest(agent_id=new_agent_id(), user_id="ann", project_id="shop", key="k", body_hash="h")
        for _ in range(5)
    ]
    answers = [(await register(request=one)).answer for one in keyed]
    assert {(a.outcome, a.reason) for a in answers if a} == {(StartOutcome.REJECTED, "max_agents_exceeded")}
    assert await rows(db, "SELECT count(*) FROM events WHERE kind = 'agent.rejected'") == [(1,)]
    async with db.transaction() as session:
        assert await idempotency.outcome_of(session, "ann", idempotency.start_scope("shop"), "k") == answers[0]


async def test_row_of_the_same_project_that_nobody_owns_is_named_instead_of_decided_over(
    db: Db, register: Register
) -> None:
    first = (await register()).answer
    assert first is not None
    again = await register()
    assert again.answer is None
    assert [left.agent_id for left in again.leftovers] == [first.agent_id]
    assert await rows(db, "SELECT count(*) FROM agents") == [(1,)]


async def test_unknown_user_is_told_so(db: Db, register: Register) -> None:
    with pytest.raises(NotFound) as unknown:
        await register(request=StartRequest(agent_id=new_agent_id(), user_id="nobody", project_id="shop"))
    assert unknown.value.error_code == "unknown_user"


async def test_grants_follow_the_domains_order(db: Db, register: Register) -> None:
    dice = random.Random(7)
    expected = []
    for n in range(25):
        tier, at = dice.choice(list(Tier)), START - timedelta(seconds=dice.randrange(60))
        answer = (await register(f"user{n}", tier=tier, at=at, capacity=0)).answer
        assert answer is not None
        key = order_key(tier, at)
        expected.append((*key.place(), answer.agent_id))
    line = [agent_id for *_, agent_id in sorted(expected)]
    async with db.transaction() as session:
        places = await queue.positions(session, "default")
    assert sorted(places, key=lambda agent_id: places[agent_id]) == line
    granted: list[str] = []
    for capacity in range(1, 26):
        assert (await grant(db, capacity)).granted == 1
        granted += [
            str(row[0])
            for row in await rows(db, "SELECT agent_id FROM agents WHERE state = 'starting'")
            if row[0] not in granted
        ]
    assert granted == line


async def test_passes_at_once_give_no_slot_twice(db: Db, register: Register) -> None:
    for n in range(20):
        await register(f"user{n}", capacity=0)
    done = await asyncio.gather(*(grant(db, 5) for _ in range(6)))
    assert sum(one.granted for one in done) == 5
    assert await rows(db, "SELECT count(*) FROM agents WHERE state = 'starting'") == [(5,)]
    # Who was granted a slot and has not taken notice is named by every pass.
    assert len((await grant(db, 5)).unseen) == 5


async def test_user_at_the_limit_is_passed_over_without_losing_the_place(db: Db, register: Register) -> None:
    first = (await register("ann", "one")).answer
    assert first is not None
    assert first.agent_id is not None
    await move(db, first.agent_id, AgentState.DRAINING)
    second = (await register("ann", "two")).answer
    assert second is not None
    assert second.reason == "previous_ending"
    later = (await register("bob", capacity=0)).answer
    assert later is not None
    assert (await grant(db, 10)).granted == 1
    assert await rows(db, "SELECT user_id FROM agents WHERE state = 'starting'") == [("bob",)]
    await move(db, first.agent_id, AgentState.TERMINATED)
    assert (await grant(db, 10)).granted == 1


async def test_old_look_at_a_cluster_gives_no_room(db: Db, register: Register) -> None:
    await rows(db, "UPDATE clusters SET measured_at = now() - interval '2 minutes' RETURNING 1")
    answer = (await register()).answer
    assert answer is not None
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, "insufficient_cluster_resources")
    assert (await grant(db, 10)).granted == 0


@pytest.mark.parametrize("before", AgentState)
async def test_only_legal_edges_are_taken_whatever_is_asked(db: Db, register: Register, before: AgentState) -> None:
    made = (await register()).answer
    assert made is not None
    agent_id = made.agent_id or ""
    for after in AgentState:
        await rows(
            db, "UPDATE agents SET state = :state WHERE agent_id = :a RETURNING 1", state=before.value, a=agent_id
        )
        log = await rows(db, "SELECT count(*) FROM events")
        moved = await move(db, agent_id, after)
        assert moved.applied is legal(before, after)
        assert moved.state is (after if moved.applied else before)
        grown = await rows(db, "SELECT count(*) FROM events")
        assert grown == [(int(str(log[0][0])) + (1 if moved.applied else 0),)]
    assert (await rows(db, "SELECT max(seq) = count(*) FROM events WHERE agent_id = :a", a=agent_id)) == [(True,)]


async def test_move_of_another_attempt_or_of_nobody_changes_nothing(db: Db, register: Register) -> None:
    made = (await register()).answer
    assert made is not None
    moved = await move(db, made.agent_id or "", AgentState.DRAINING, attempt=2)
    assert (moved.applied, moved.state, moved.attempt) == (False, AgentState.STARTING, 1)
    with pytest.raises(InvalidRequest):
        await move(db, "ag-none", AgentState.DRAINING)


async def test_same_move_from_many_sides_is_made_once(db: Db, register: Register) -> None:
    made = (await register()).answer
    assert made is not None
    moved = await asyncio.gather(*(move(db, made.agent_id or "", AgentState.DRAINING) for _ in range(8)))
    assert sum(one.applied for one in moved) == 1
    assert await rows(db, "SELECT count(*) FROM events WHERE state = 'draining'") == [(1,)]


@pytest.mark.parametrize("end", sorted(FINAL))
async def test_end_takes_token_deadline_commands_and_tickets_away(db: Db, register: Register, end: AgentState) -> None:
    made = (await register()).answer
    assert made is not None
    agent_id = made.agent_id or ""
    before = {AgentState.TERMINATED: "draining", AgentState.CANCELLED: "queued", AgentState.FAILED: "running"}[end]
    await rows(
        db,
        "UPDATE agents SET state = :s, token_hash = 'h', deadline_at = now(), keepable = true RETURNING 1",
        s=before,
    )
    await rows(
        db,
        "INSERT INTO commands (agent_id, command_id, attempt, name, parameters, deadline_at)"
        " VALUES (:a, 'c', 1, 'state', '{}', now()) RETURNING 1",
        a=agent_id,
    )
    await rows(
        db,
        "INSERT INTO tickets (ticket_hash, kind, user_id, agent_id, expires_at)"
        " VALUES ('t', 'desktop', 'ann', :a, now() + interval '1 hour') RETURNING 1",
        a=agent_id,
    )
    assert (await move(db, agent_id, end)).applied
    ended = await rows(db, "SELECT token_hash, deadline_at, keepable, ended_at IS NOT NULL FROM agents")
    assert ended == [(None, None, False, True)]
    assert await rows(db, "SELECT state, fault FROM commands") == [("expired", "shutting_down")]
    assert await rows(db, "SELECT count(*) FROM tickets") == [(0,)]


async def test_two_current_agents_of_one_project_cannot_be_written(db: Db, register: Register) -> None:
    made = (await register(tier=Tier.BASIC)).answer
    assert made is not None
    with pytest.raises(IntegrityError):
        await register(tier=Tier.BASIC, predecessor=made.agent_id)


async def test_reader_by_cursor_misses_no_event_that_commits_late(db: Db, register: Register) -> None:
    """While one transaction holds the user's counter open, no later event can be seen before its own."""
    one, two = (
        (await register("ann", "one", tier=Tier.BASIC)).answer,
        (await register("ann", "two", tier=Tier.BASIC)).answer,
    )
    assert one is not None
    assert two is not None
    async with db.transaction() as session:
        head = await events.head(session, "ann")
    slow_wrote, may_commit = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        async with db.transaction() as session:
            await moves.move(session, one.agent_id or "", 1, AgentState.DRAINING, now(), DRAINS)
            slow_wrote.set()
            await may_commit.wait()

    async def quickly() -> None:
        await slow_wrote.wait()
        async with db.transaction() as session:
            await moves.move(session, two.agent_id or "", 1, AgentState.DRAINING, now(), DRAINS)

    writers = asyncio.gather(slowly(), quickly())
    seen: list[int] = []

    async def read() -> None:
        async with db.transaction() as session:
            seen.extend(e.cursor for e in await events.of_user(session, "ann", max([head, *seen])))

    await slow_wrote.wait()
    await read()
    may_commit.set()
    while not writers.done():
        await read()
        await asyncio.sleep(0)
    await writers
    await read()
    assert seen == [head + 1, head + 2]
