"""Starts in a pool that lets only some be under way at once: the others wait in line, and nobody is refused."""

import asyncio
from typing import Any

from sqlalchemy import text

from core.db.repositories import locks
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartOutcome
from core.domain.recovery import FailureKind
from core.domain.templates import Pool, Resources, Simulation, Template
from core.domain.timings import Timings
from tests.fixtures.stage import SetStage, Stage

# Nothing happens in time by itself: a pool that is not told never looks again, a start never ends before the test.
NEVER = Timings(
    grace_seconds=0,
    grant_tick_seconds=3600,
    ready_deadline_seconds=3600,
    restart_backoff_seconds=3600,
    snapshot_seconds=0.2,
)


async def set_up(set_stage: SetStage, **pool: Any) -> Stage:
    """A pool in which an agent is usable when the test says so."""
    pools = {"default": Pool(runtime="memory", capacity=10, **pool)}
    return await set_stage(NEVER, pools=pools, templates={"default": Template(simulation=Simulation(never_ready=True))})


async def begun(stage: Stage, user: str) -> str:
    answer = await stage.start(user)
    assert answer.outcome is StartOutcome.CREATED
    return answer.agent_id or ""


async def waits(stage: Stage, user: str, reason: str) -> str:
    answer = await stage.start(user)
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, reason)
    return answer.agent_id or ""


async def usable(stage: Stage, agent_id: str) -> None:
    agent = await stage.agent(agent_id)
    assert await stage.lives.ready(agent_id, agent.attempt, agent.workflow_id)
    await stage.until(agent_id, AgentState.RUNNING)


async def states(stage: Stage, *agent_ids: str) -> list[str]:
    return [(await stage.agent(agent_id)).state.value for agent_id in agent_ids]


async def test_next_starts_when_one_is_usable_and_not_before(set_stage: SetStage) -> None:
    stage = await set_up(set_stage, max_starting=2)
    first, _ = await begun(stage, "ann"), await begun(stage, "bob")
    third = await waits(stage, "cat", "too_many_starting")
    fourth = await waits(stage, "dan", "queue_ahead")
    await usable(stage, first)
    await stage.until(third, AgentState.STARTING)
    assert await states(stage, third, fourth) == ["starting", "queued"]
    await usable(stage, third)
    await stage.until(fourth, AgentState.STARTING)


async def test_next_starts_when_one_that_was_starting_is_stopped_or_fails(set_stage: SetStage) -> None:
    stage = await set_up(set_stage, max_starting=1)
    first = await begun(stage, "ann")
    second = await waits(stage, "bob", "too_many_starting")
    third = await waits(stage, "cat", "queue_ahead")
    await stage.stop(first, "maintenance", grace_seconds=600)
    await stage.until(second, AgentState.STARTING)
    assert await states(stage, first, third) == ["draining", "queued"]
    await stage.exists(second)
    await stage.fail(second, FailureKind.CRASH)
    await stage.until(second, AgentState.RESTARTING)
    await stage.until(third, AgentState.STARTING)


async def test_machines_of_a_cluster_start_only_so_many_each_whichever_pool_asks(set_stage: SetStage) -> None:
    stage = await set_up(set_stage, max_starting_per_node=1)
    # All simulated machines are one to whoever counts them.
    first, second = await begun(stage, "ann"), await waits(stage, "bob", "too_many_starting")
    await usable(stage, first)
    await stage.until(second, AgentState.STARTING)


HUGE = {"huge": Template(resources=Resources(cpu=100_000, cpu_limit=100_000))}


async def refused_beside_another(stage: Stage) -> StartAnswer:
    """What a start is told that reached the same run as one for what no machine can hold, which came first."""
    await stage.member("ann", "shop")

    async with stage.db.transaction() as session:
        # Nothing is decided about a user's start while we hold this, which may be longer than Berth itself ever may.
        await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await locks.user(session, "ann")
        starts = []
        for template in ("huge", "default"):
            starts.append(asyncio.create_task(stage.insist(stage.request(template=template))))
            await stage.took("start", f'"template":"{template}"')
    # The other may have been told `pending` meanwhile, and have asked again when there was an agent.
    _, second = await asyncio.gather(*starts)
    return second


async def test_what_is_refused_for_one_template_is_decided_anew_for_another(set_stage: SetStage) -> None:
    stage = await set_stage(templates=HUGE)
    started = await refused_beside_another(stage)
    refused = await stage.sql("SELECT reason FROM events WHERE kind = 'agent.rejected'")
    assert refused == [{"reason": "never_satisfiable"}]
    assert started.outcome is StartOutcome.CREATED
    await stage.until(started.agent_id or "", AgentState.RUNNING)
    await stage.stop(started.agent_id or "")
    await stage.nothing_left()
