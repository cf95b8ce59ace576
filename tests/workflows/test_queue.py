"""Waiting for a slot: who is next, who is told, and what a lost word costs."""

import asyncio
from collections import Counter

from core.db.repositories import overrides, queue
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartOutcome
from core.domain.templates import Pool
from core.settings import Queue
from tests.fixtures.stage import SetStage, Stage, until

# A pool that is not told looks again only after this test is over.
NEVER = {"grant_tick_seconds": 3600}


async def position(stage: Stage, agent_id: str) -> int | None:
    async with stage.db.transaction() as session:
        return (await queue.with_wait(session, await stage.agent(agent_id), stage.settings.rules())).position


async def override(stage: Stage, *, capacity: int | None = None, paused: bool | None = None) -> None:
    async with stage.db.transaction() as session:
        await overrides.change(session, "default", capacity=capacity, paused=paused)
    await stage.lives.wake_pool("default")


async def granted(stage: Stage, agent_id: str) -> None:
    async def admitted() -> bool:
        return (await stage.sql("SELECT admitted_at FROM agents WHERE agent_id = :a", a=agent_id))[0][
            "admitted_at"
        ] is not None

    await until(admitted, f"{agent_id} to be granted a slot")


async def test_second_waits_with_a_reason_and_is_admitted_when_the_first_goes(set_stage: SetStage) -> None:
    stage = await set_stage(NEVER, capacity=1)
    first = await stage.started("ann")
    answer = await stage.start("bob")
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, "no_suitable_node")
    second = answer.agent_id or ""
    assert await position(stage, second) == 1
    assert (await stage.agent(second)).started_at is None
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    log = await stage.events(second)
    assert [event.kind.removeprefix("agent.") for event in log][:3] == ["requested", "queued", "admitted"]
    assert log[2].detail["waitedSeconds"] > 0
    await stage.stop(second)
    await stage.nothing_left()


async def test_higher_tier_goes_first_and_equals_in_the_order_they_came(set_stage: SetStage) -> None:
    stage = await set_stage(NEVER, capacity=1)
    holder = await stage.started("ann")
    came = {"f1": "free", "b1": "basic", "e1": "enterprise", "f2": "free", "p1": "premium", "e2": "enterprise"}
    waiting = {user: await stage.queued(user, tier=tier) for user, tier in came.items()}
    expected = ["e1", "e2", "p1", "b1", "f1", "f2"]
    assert [await position(stage, waiting[user]) for user in expected] == [1, 2, 3, 4, 5, 6]
    for user in expected:
        await stage.stop(holder)
        holder = waiting[user]
        await stage.until(holder, AgentState.RUNNING)
    running = await stage.sql("SELECT user_id FROM agents WHERE admitted_at IS NOT NULL ORDER BY admitted_at")
    assert [row["user_id"] for row in running] == ["ann", *expected]


async def test_cancelled_request_leaves_the_line_to_those_behind_it(set_stage: SetStage) -> None:
    stage = await set_stage(NEVER, capacity=1)
    first = await stage.started("ann")
    second, third = await stage.queued("bob"), await stage.queued("cat")
    await stage.stop(second)
    await stage.until(second, AgentState.CANCELLED)
    await stage.until_closed("bob")
    assert await position(stage, third) == 1
    await stage.stop(first)
    await stage.until(third, AgentState.RUNNING)
    assert await stage.kinds(second) == ["requested", "queued", "cancelled"]


async def test_slot_of_one_cancelled_while_it_was_granted_goes_to_the_next(set_stage: SetStage) -> None:
    stage = await set_stage(NEVER, capacity=1)
    first = await stage.started("ann")
    second, third = await stage.queued("bob"), await stage.queued("cat")
    told = stage.lives.admit

    async def not_bob(workflow_id: str, agent_id: str, attempt: int) -> bool:
        return True if agent_id == second else await told(workflow_id, agent_id, attempt)

    stage.lives.admit = not_bob  # type: ignore[method-assign]
    await stage.stop(first)
    await granted(stage, second)
    await stage.stop(second)
    ended = await stage.until(second, AgentState.TERMINATED)
    assert ended.ready_at is None
    await stage.until(third, AgentState.RUNNING)
    await stage.stop(third)
    await stage.nothing_left()


async def test_cancels_racing_with_grants_lose_no_slot_and_no_agent(set_stage: SetStage) -> None:
    stage = await set_stage({"grant_tick_seconds": 0.5}, capacity=2)
    agents = [(await stage.start(f"user{n}")).agent_id or "" for n in range(10)]
    await asyncio.gather(*(stage.stop(agent_id) for agent_id in agents))
    await stage.nothing_left()
    last = [await stage.started(f"user{n}") for n in (20, 21)]
    assert len(last) == 2


async def test_lost_word_of_a_grant_is_said_again(set_stage: SetStage) -> None:
    stage = await set_stage({"grant_tick_seconds": 0.5}, capacity=1)
    first = await stage.started("ann")
    second = await stage.queued("bob")
    told = stage.lives.admit
    lost: list[str] = []

    async def deaf_once(workflow_id: str, agent_id: str, attempt: int) -> bool:
        if not lost:
            lost.append(agent_id)
            return True
        return await told(workflow_id, agent_id, attempt)

    stage.lives.admit = deaf_once  # type: ignore[method-assign]
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    assert lost == [second]
    assert (await stage.kinds(second)).count("admitted") == 1


async def test_paused_pool_admits_nobody_until_it_goes_on(set_stage: SetStage) -> None:
    stage = await set_stage({"grant_tick_seconds": 0.2}, capacity=5)
    await override(stage, paused=True)
    answer = await stage.start("ann")
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, "pool_paused")
    agent_id = answer.agent_id or ""

    async def looked_again() -> bool:
        described = await stage.client.get_workflow_handle("pool/default").describe()
        return described.history_length > 20

    await until(looked_again, "the pool to look several times")
    assert (await stage.agent(agent_id)).state is AgentState.QUEUED
    await override(stage, paused=False)
    await stage.until(agent_id, AgentState.RUNNING)


async def test_more_capacity_admits_as_many_at_once(set_stage: SetStage) -> None:
    stage = await set_stage(NEVER, capacity=0)
    waiting = [await stage.queued(f"user{n}") for n in range(5)]
    await override(stage, capacity=3)
    for agent_id in waiting[:3]:
        await stage.until(agent_id, AgentState.RUNNING)
    assert [await position(stage, agent_id) for agent_id in waiting[3:]] == [1, 2]


async def test_full_queue_refuses_and_keeps_who_is_in_it(set_stage: SetStage) -> None:
    stage = await set_stage(NEVER, capacity=0, queue=Queue(max=2))
    waiting = [await stage.queued(f"user{n}") for n in range(2)]
    refused = await stage.start("late")
    assert (refused.outcome, refused.reason) == (StartOutcome.REJECTED, "queue_full")
    assert [await position(stage, agent_id) for agent_id in waiting] == [1, 2]
    assert await stage.sql("SELECT 1 FROM agents WHERE user_id = 'late'") == []


async def test_key_that_found_the_queue_full_may_try_again(set_stage: SetStage) -> None:
    stage = await set_stage(NEVER, capacity=0, queue=Queue(max=1))
    waits = await stage.queued("first")
    for _ in range(2):
        assert (await stage.start("late", key="k")).reason == "queue_full"
    await stage.stop(waits)
    assert (await stage.start("late", key="k")).outcome is StartOutcome.QUEUED


async def test_key_whose_agent_is_over_gets_the_next_life_when_it_asks_anew(set_stage: SetStage) -> None:
    stage = await set_stage()
    first = await stage.started()
    request = stage.request(key="k")
    there = StartAnswer(outcome=StartOutcome.EXISTING, agent_id=first)
    assert await stage.lives.start(request) == there
    await stage.stop(first)
    await stage.until_closed()
    # The server keeps what the key was told, as long as no other run has begun.
    assert await stage.lives.start(request) == there
    assert (await stage.lives.start(request, anew=True)).outcome is StartOutcome.CREATED


async def test_pools_of_one_cluster_share_its_room(set_stage: SetStage) -> None:
    pools = {"side": Pool(runtime="memory")}
    stage = await set_stage(NEVER, capacity=None, pools=pools)
    stage.runtime._settings = stage.settings.memory.model_copy(update={"capacity": 1})

    async def measured() -> bool:
        return await stage.sql("SELECT 1 FROM clusters WHERE total = 1") != []

    await until(measured, "the cluster to be measured anew")
    first = await stage.started("ann")
    other = await stage.queued("bob", pool="side")
    await stage.stop(first)
    await stage.until(other, AgentState.RUNNING)


async def test_hundred_starts_of_one_free_user_make_one_agent(stage: Stage) -> None:
    projects = [f"project{n}" for n in range(100)]
    await stage.member("ann", *projects)
    gate = asyncio.Semaphore(25)

    async def start(project: str) -> str:
        async with gate:
            answer = await stage.insist(stage.request("ann", project, key=f"key-{project}", body_hash="h"))
            return f"{answer.outcome.value} {answer.reason}"

    outcomes = Counter(await asyncio.gather(*(start(project) for project in projects)))
    assert outcomes == {"created None": 1, "rejected max_agents_exceeded": 99}
    assert len(await stage.sql("SELECT 1 FROM agents")) == 1
    rejected = await stage.sql("SELECT count(*) FROM events WHERE kind = 'agent.rejected' AND user_id = 'ann'")
    assert rejected == [{"count": 99}]
    cursors = await stage.sql("SELECT max(cursor) = count(*) AS gapless FROM events WHERE user_id = 'ann'")
    assert cursors == [{"gapless": True}]
    # Whoever was refused leaves no workflow behind.

    async def one_left() -> bool:
        return len(await stage.lives.owners()) == 1

    await until(one_left, "the workflows of the refused to be over")


async def test_pool_queue_that_was_killed_by_hand_comes_back_with_the_next_word(set_stage: SetStage) -> None:
    stage = await set_stage(NEVER, capacity=1)
    first = await stage.started("ann")
    second = await stage.queued("bob")
    await stage.client.get_workflow_handle("pool/default").terminate("by hand")
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)


async def test_wait_that_was_foretold_is_kept_to_be_held_against_the_real_one(set_stage: SetStage) -> None:
    stage = await set_stage(capacity=1)
    await stage.started("bob")
    for place, user in enumerate(("ann", "eve"), 1):
        agent_id = await stage.queued(user)
        (row,) = await stage.sql("SELECT wait_estimate_minutes AS told FROM agents WHERE agent_id = :a", a=agent_id)
        # Nothing is measured yet: a slot is taken to come free every 10 minutes at the latest.
        assert row["told"] == 10 * place
