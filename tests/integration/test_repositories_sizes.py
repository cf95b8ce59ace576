"""A cluster whose templates do not all ask for the same: who is let in, in which order, and what others are told."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from core.db.engine import Db
from core.db.repositories import (
    admission,
    agents,
    clusters,
    explanations,
    moves,
    overrides,
    projects,
    queue,
    rejoining,
    users,
)
from core.db.repositories.agents import fact
from core.domain.admission import Check, Create, Queue, QueueReason, Rules
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartOutcome, StartRequest
from core.domain.room import Room
from core.domain.templates import Pool
from core.domain.thresholds import Fit, Load, Look, Thresholds
from core.domain.tiers import Tier, TierLimits
from core.ids import agent_workflow_id, new_agent_id

LIMITS = TierLimits()
# What a machine of 16 GiB takes of each.
SMALL, LARGE = "small", "large"
SIZES = {SMALL: 512, LARGE: 4096}
FITS = {SMALL: 28, LARGE: 3}
POOL = Pool(runtime="memory", template=SMALL)
SIDE = Pool(runtime="memory", template=LARGE)
POOLS = {"default": POOL, "side": SIDE}
RULES = Rules(limits=LIMITS, max_waiting=1000, pools=POOLS)


def now() -> datetime:
    return datetime.now(UTC)


async def look(
    db: Db,
    fits: Mapping[str, int] = FITS,
    *,
    here: Sequence[str] = (),
    total: int | None = None,
    too_large: dict[str, str] | None = None,
) -> bool:
    """Store a look: room by template beside that for the usual one; whether there may be more than before."""
    async with db.transaction() as session:
        seen = Look(
            agents=len(here),
            load=Load(),
            limits=Thresholds(),
            too_large=too_large or {},
            fits=tuple(
                Fit(templates=(name,), more=more, cpu=0.5, memory_mib=SIZES[name]) for name, more in fits.items()
            ),
            seen=await clusters.seen(session, "local", here, now()) if fits else {},
        )
        total = fits.get(SMALL, 0) + len(here) if total is None else total
        return await clusters.record_look(session, "local", now(), total=total, choked=False, detail=seen.stored())


async def start(db: Db, user: str, template: str, pool: str = "default", tier: Tier = Tier.BASIC) -> StartAnswer:
    async with db.transaction() as session:
        await users.put(session, user, tier=tier.value)
        await projects.add(session, "shop", [user])
    request = StartRequest(agent_id=new_agent_id(), user_id=user, project_id="shop", template=template, pool=pool)
    async with db.transaction() as session:
        done = await admission.register(
            session, request, agent_workflow_id(user, "shop"), None, POOLS[pool], RULES, timedelta(seconds=90), now()
        )
    assert done.answer is not None
    return done.answer


async def starts(db: Db, *templates: str, pool: str = "default") -> list[str]:
    """Their ids, in the order of coming."""
    known = await rows(db, "SELECT count(*) FROM agents")
    answers = [await start(db, f"u{known[0]}{n:03}", each, pool) for n, each in enumerate(templates)]
    return [answer.agent_id or "" for answer in answers]


async def line(db: Db, *templates: str) -> list[str]:
    """Who waits, as nobody may start while they come."""
    await pause(db, True)
    found = await starts(db, *templates)
    await pause(db, False)
    return found


async def pause(db: Db, paused: bool) -> None:
    async with db.transaction() as session:
        await overrides.change(session, "default", capacity=None, paused=paused)


async def granted(db: Db, pool: str = "default", **settings: int) -> list[str]:
    async with db.transaction() as session:
        done = await queue.grant(session, pool, POOLS[pool].model_copy(update=settings), LIMITS, now(), 1000)
    unseen = await rows(
        db, "SELECT agent_id FROM agents WHERE state = 'starting' AND admission_seen_at IS NULL ORDER BY created_at"
    )
    assert done.granted <= len(unseen)
    return unseen


async def rows(db: Db, statement: str) -> list[str]:
    async with db.transaction() as session:
        return [row[0] for row in (await session.execute(text(statement))).all()]


async def room(db: Db, template: str | None = None, pool: str = "default") -> Room:
    async with db.transaction() as session:
        return await clusters.room(session, pool, POOLS[pool], now(), 1000, template)


async def end(db: Db, agent_id: str) -> None:
    for to, kind in ((AgentState.DRAINING, EventKind.DRAINING), (AgentState.TERMINATED, EventKind.TERMINATED)):
        async with db.transaction() as session:
            assert (await moves.move(session, agent_id, 1, to, now(), fact(kind, to))).applied


# ---- who is let in --------------------------------------------------------------------------------------------------


async def test_crowd_that_asks_for_large_agents_gets_as_many_as_fit_and_not_as_many_as_small_ones_would(db: Db) -> None:
    await look(db)
    answers = await asyncio.gather(*(start(db, f"user{n}", LARGE) for n in range(12)))
    assert Counter(answer.outcome for answer in answers) == {StartOutcome.CREATED: 3, StartOutcome.QUEUED: 9}
    assert {answer.reason for answer in answers} <= {None, "no_suitable_node", "queue_ahead"}
    assert await granted(db) == []


async def test_pools_of_one_cluster_share_its_room_whatever_their_agents_ask_for(db: Db) -> None:
    await look(db)
    await starts(db, LARGE, LARGE, pool="side")
    assert ((await room(db)).cluster_free, (await room(db, pool="side")).cluster_free) == (12, 1)
    await starts(db, *[SMALL] * 12)
    assert [(await room(db, each)).cluster_free for each in (SMALL, LARGE)] == [0, -11]
    assert (await start(db, "ann", SMALL)).reason == "no_suitable_node"
    assert (await start(db, "bob", LARGE, "side")).reason == "no_suitable_node"


async def test_template_whose_machines_are_gone_waits_and_the_others_do_not(db: Db) -> None:
    await look(db, {SMALL: 0, LARGE: 2})
    assert (await start(db, "ann", LARGE, "side")).outcome is StartOutcome.CREATED
    assert (await start(db, "bob", SMALL)).reason == "no_suitable_node"


async def test_look_of_an_older_worker_counts_in_one_size(db: Db) -> None:
    await look(db, {}, total=2)
    assert (await start(db, "ann", LARGE)).outcome is StartOutcome.CREATED
    assert (await start(db, "bob", SMALL)).outcome is StartOutcome.CREATED
    assert (await start(db, "cat", SMALL)).reason == "no_suitable_node"


async def test_template_that_the_look_did_not_count_has_the_room_of_the_usual_one(db: Db) -> None:
    await look(db, {SMALL: 1, LARGE: 0})
    assert (await start(db, "ann", "brand new")).outcome is StartOutcome.CREATED
    assert (await start(db, "bob", "brand new")).reason == "no_suitable_node"


# ---- in which order -------------------------------------------------------------------------------------------------


async def test_line_is_granted_in_order_until_the_first_that_finds_no_place(db: Db) -> None:
    await look(db)
    waits = await line(db, LARGE, SMALL, LARGE, LARGE, SMALL, SMALL)
    # 4096 three times would fit, with a small one between them only two: the third holds up the small ones behind it.
    assert await granted(db) == waits[:3]
    assert await granted(db) == waits[:3]
    await look(db, {SMALL: 9, LARGE: 1}, here=waits[:3])
    assert await granted(db) == waits[:5]


async def test_small_one_never_goes_before_a_large_one_that_came_first(db: Db) -> None:
    await look(db, {SMALL: 5, LARGE: 0})
    waits = await line(db, LARGE, SMALL)
    assert await granted(db) == []
    await look(db, {SMALL: 8, LARGE: 1})
    assert await granted(db) == waits[:1]
    await look(db, {SMALL: 1, LARGE: 0}, here=waits[:1])
    assert await granted(db) == waits


async def test_first_that_may_not_have_a_slot_now_is_passed_over_and_holds_up_nobody(db: Db) -> None:
    await look(db, {SMALL: 5, LARGE: 0})
    waits = await line(db, LARGE, SMALL)
    await rows(
        db, "UPDATE users SET subscription_active_until = now() - interval '1 h' WHERE user_id LIKE '%000' RETURNING 1"
    )
    assert await granted(db) == waits[1:]


async def test_one_that_no_machine_could_run_any_more_is_let_in_to_be_told_so(db: Db) -> None:
    await look(db)
    waits = await line(db, LARGE, SMALL)
    await look(db, {SMALL: 5, LARGE: 0}, too_large={LARGE: "a template asks for 4096 MiB of memory"})
    assert not (await room(db)).held_up
    assert await granted(db) == waits


async def test_pool_gives_no_more_than_its_own_capacity_and_starts_whatever_fits(db: Db) -> None:
    await look(db)
    waits = await line(db, *[SMALL] * 6)
    assert await granted(db, capacity=2) == waits[:2]
    assert await granted(db, max_starting=3) == waits[:3]
    assert await granted(db) == waits


async def test_line_of_a_pool_is_served_although_its_usual_template_has_no_place(db: Db) -> None:
    await look(db, {SMALL: 0, LARGE: 2})
    waits = await line(db, LARGE, LARGE, LARGE)
    assert await granted(db) == waits[:2]


# ---- between two looks ----------------------------------------------------------------------------------------------


async def test_slot_that_comes_free_goes_to_the_next_of_its_size_at_once_and_to_others_with_the_next_look(
    db: Db,
) -> None:
    await look(db)
    small, large = (await starts(db, SMALL))[0], (await starts(db, LARGE, pool="side"))[0]
    await look(db, {SMALL: 0, LARGE: 0}, here=[small, large])
    [waits] = await line(db, LARGE)
    await end(db, small)
    assert await granted(db) == [], "a small one made room for a large one"
    await end(db, large)
    assert await granted(db) == [waits]


async def test_agent_that_was_over_before_the_look_and_is_still_there_gives_no_place_away(db: Db) -> None:
    await look(db)
    [gone, stays] = await starts(db, SMALL, SMALL)
    await end(db, gone)
    await look(db, {SMALL: 0, LARGE: 0}, here=[gone, stays])
    assert (await room(db)).cluster_free == 0
    await end(db, stays)
    assert (await room(db)).cluster_free == 1


async def test_agent_that_has_no_machine_yet_has_its_place_beside_what_the_look_counted(db: Db) -> None:
    await look(db)
    [there, coming] = await starts(db, SMALL, LARGE)
    await look(db, {SMALL: 20, LARGE: 2}, here=[there])
    assert [(await room(db, each)).cluster_free for each in (SMALL, LARGE)] == [12, 1]
    await look(db, {SMALL: 12, LARGE: 1}, here=[there, coming])
    assert [(await room(db, each)).cluster_free for each in (SMALL, LARGE)] == [12, 1]


async def test_queues_look_again_when_more_of_any_template_fits(db: Db) -> None:
    await look(db, {SMALL: 5, LARGE: 0})
    assert not await look(db, {SMALL: 5, LARGE: 0})
    assert await look(db, {SMALL: 5, LARGE: 1})
    assert not await look(db, {SMALL: 5, LARGE: 0})
    # From one size to several and back: what was not counted before is not taken for more.
    assert not await look(db, {}, total=5)
    assert not await look(db, {SMALL: 5, LARGE: 3})


async def test_restart_that_finds_room_keeps_its_slot_whoever_came_meanwhile_and_one_that_finds_none_waits(
    db: Db,
) -> None:
    await look(db)
    [large] = await starts(db, LARGE, pool="side")
    await starts(db, *[SMALL] * 12)
    assert (await restart(db, large)).state is AgentState.RESTARTING
    await look(db, {SMALL: 28, LARGE: 0})
    assert (await restart(db, large)).state is AgentState.QUEUED
    assert await granted(db, "side") == []


async def restart(db: Db, agent_id: str) -> moves.Moved:
    """Its machine is gone, and it is asked whether another would take it."""
    async with db.transaction() as session:
        failed = fact(EventKind.RESTARTING, AgentState.RESTARTING)
        await moves.move(session, agent_id, 1, AgentState.RESTARTING, now(), failed)
    async with db.transaction() as session:
        return await rejoining.rejoin(session, agent_id, 1, "side", SIDE, 1000, now())


# ---- what they are told ---------------------------------------------------------------------------------------------


async def test_start_is_explained_by_the_room_for_its_own_template_and_decided_so(db: Db) -> None:
    await look(db, {SMALL: 5, LARGE: 0})
    async with db.transaction() as session:
        await users.put(session, "ann", tier=Tier.BASIC.value)
        await projects.add(session, "shop", ["ann"])
        large, small = [
            await explanations.explain(session, "ann", "shop", "default", POOL, RULES, now(), each)
            for each in (LARGE, SMALL)
        ]
    assert large.decision == Queue(reason=QueueReason.NO_NODE)
    assert [each.numbers["clusterFree"] for each in large.examined if each.check is Check.ROOM] == [0]
    assert small.decision == Create()
    assert (await start(db, "ann", LARGE)).reason == QueueReason.NO_NODE


@pytest.mark.parametrize("first", [SMALL, LARGE])
async def test_nobody_is_told_of_a_start_at_once_while_the_first_in_line_finds_no_place(db: Db, first: str) -> None:
    await look(db, {SMALL: 5, LARGE: 0})
    waits = await line(db, first, SMALL)
    async with db.transaction() as session:
        shown = [await agents.get(session, agent_id) for agent_id in waits]
        told = await queue.all_with_wait(session, [each for each in shown if each is not None], RULES)
    held_up = first == LARGE
    assert (await room(db)).held_up is held_up
    assert all(((each.estimated_wait_minutes or 0) > 5) is held_up for each in told)
