"""A start while the last life is ending, behind one that its workflow has forgotten or is just letting go of."""

import asyncio

from sqlalchemy import text

from core.db.repositories import locks
from core.domain.lifecycle import AgentState
from core.domain.orders import StartOutcome
from tests.fixtures.stage import SetStage, Stage
from tests.workflows.test_draining import LONG, draining
from tests.workflows.test_succession import forgotten, succeeded


async def test_start_behind_one_that_was_forgotten_is_answered_with_that_one(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first = await draining(stage, "maintenance")
    second = await forgotten(stage, first)
    for _ in range(2):
        again = await stage.start()
        assert (again.outcome, again.agent_id, again.reason) == (StartOutcome.QUEUED, second, "previous_ending")
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    assert await stage.kinds(second) == ["requested", "queued", "admitted", "starting", "ready"]
    await stage.stop(second)
    await stage.nothing_left()


async def started_behind_one_told_to_go(stage: Stage) -> tuple[str, str, str]:
    """An agent in its grace, one whose start was forgotten and then stopped, and one that was asked for after that."""
    first = await draining(stage, "maintenance")
    second = await forgotten(stage, first)
    await stage.stop(second)
    return first, second, await stage.queued()


async def test_start_behind_one_that_was_forgotten_and_told_to_go_is_a_new_life(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, second, third = await started_behind_one_told_to_go(stage)
    assert third != second
    assert (await stage.agent(second)).reason == "user_requested"
    await stage.stop(first)
    await stage.until(third, AgentState.RUNNING)
    await stage.stop(third)
    await stage.nothing_left()


async def test_start_while_a_successor_is_being_withdrawn_is_a_new_life(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, second = await succeeded(stage)
    async with stage.db.transaction() as session:
        # Nothing leaves the line while we hold this.
        await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await locks.cluster(session, "local")
        await stage.stop(second)
        request = stage.request()
        asking = asyncio.create_task(stage.insist(request))
        await stage.took("start", request.agent_id)
    third = (await asking).agent_id or ""
    assert third == request.agent_id
    assert (await stage.agent(second)).state is AgentState.CANCELLED
    await stage.stop(first)
    await stage.until(third, AgentState.RUNNING)
    await stage.stop(third)
    await stage.nothing_left()
