"""Lives longer than one history: handed on with all they know, without a word lost."""

import asyncio

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.worker import UnsandboxedWorkflowRunner

from core.domain.lifecycle import AgentState
from core.domain.orders import FailureReport, StartOutcome
from core.domain.recovery import FailureKind
from tests.fixtures.stage import SetStage, Stage, until
from workflows.options import AGENT_ID, AGENT_REASON, AGENT_STATE

SHORT = 40


async def first_run(stage: Stage) -> str:
    run_id = (await stage.workflow().describe()).run_id
    assert run_id is not None
    return run_id


async def handed_on(stage: Stage, run_id: str) -> None:
    async def another() -> bool:
        return (await stage.workflow().describe()).run_id != run_id

    await until(another, "the life to be handed on")


async def babble(stage: Stage, count: int) -> None:
    """Say what means nothing to this life, so that only its history grows."""
    report = FailureReport(agent_id="ag-of-yore", attempt=1, kind=FailureKind.CRASH)
    gate = asyncio.Semaphore(32)

    async def say() -> None:
        async with gate:
            await stage.workflow().signal("failed", report)

    await asyncio.gather(*(say() for _ in range(count)))


async def test_running_life_is_handed_on_with_its_attempt_state_and_name(set_stage: SetStage) -> None:
    stage = await set_stage(history_limit=SHORT)
    agent_id = await stage.started()
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    run_id = await first_run(stage)
    await babble(stage, SHORT)
    await handed_on(stage, run_id)
    again = await stage.start()
    assert (again.outcome, again.agent_id) == (StartOutcome.EXISTING, agent_id)
    described = await stage.workflow().describe()
    assert described.typed_search_attributes[AGENT_ID] == agent_id
    assert described.typed_search_attributes[AGENT_STATE] == "running"
    agent = await stage.agent(agent_id)
    assert (agent.state, agent.attempt, agent.restart_count) == (AgentState.RUNNING, 2, 1)
    # The count of restarts went along: the next one is the second.
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    assert (await stage.until(agent_id, AgentState.RUNNING)).restart_count == 2
    await stage.stop(agent_id)
    await stage.nothing_left()


async def shown_again(stage: Stage) -> bool:
    """Whether this run has shown where it stands; before that, what the last one showed is there."""
    events = (await stage.workflow().fetch_history()).events
    return any(event.HasField("upsert_workflow_search_attributes_event_attributes") for event in events)


async def test_waiting_life_is_handed_on_and_still_admitted(set_stage: SetStage) -> None:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1, history_limit=SHORT)
    holder = await stage.started("bob")
    agent_id = await stage.queued()
    run_id = await first_run(stage)
    await babble(stage, SHORT)
    await handed_on(stage, run_id)
    why = (await stage.agent(agent_id)).reason
    await until(lambda: shown_again(stage), "the next run to show where it stands")
    assert why
    assert (await stage.workflow().describe()).typed_search_attributes.get(AGENT_REASON) == why
    await stage.stop(holder)
    await stage.until(agent_id, AgentState.RUNNING)


async def test_order_that_came_while_nobody_worked_is_carried_into_the_next_run(set_stage: SetStage) -> None:
    stage = await set_stage(history_limit=SHORT)
    agent_id = await stage.started()
    run_id = await first_run(stage)
    await stage.worker_down()
    await babble(stage, SHORT)
    await stage.stop(agent_id)
    await babble(stage, SHORT)
    await stage.worker_up()
    await stage.until(agent_id, AgentState.TERMINATED)
    described = await stage.client.get_workflow_handle(stage.workflow().id, run_id=run_id).describe()
    assert described.status in {WorkflowExecutionStatus.CONTINUED_AS_NEW, WorkflowExecutionStatus.COMPLETED}
    await stage.nothing_left()


async def test_life_that_was_handed_on_while_draining_keeps_its_grace_and_can_be_kept(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600}, history_limit=SHORT)
    agent_id = await stage.started()
    await stage.worker_down()
    await babble(stage, SHORT)
    await stage.stop(agent_id, "inactivity")
    await stage.worker_up()
    draining = await stage.until(agent_id, AgentState.DRAINING)
    assert await asyncio.wait_for(stage.lives.keep(draining), 10)
    await stage.stop(agent_id)
    await stage.nothing_left()


@pytest.mark.timeout(300)
async def test_two_and_a_half_thousand_signals_leave_an_agent_as_it_was(set_stage: SetStage) -> None:
    stage = await set_stage()
    # As in production: it is the sandbox that this would be a test of.
    await stage.worker_down()
    stage.runner = UnsandboxedWorkflowRunner()
    await stage.worker_up()
    agent_id = await stage.started()
    run_id = await first_run(stage)
    await babble(stage, 2500)
    await handed_on(stage, run_id)
    again = await stage.start()
    assert (again.outcome, again.agent_id) == (StartOutcome.EXISTING, agent_id)
    assert (await stage.agent(agent_id)).attempt == 1
    await stage.stop(agent_id)
    await stage.nothing_left()


async def test_pool_queue_is_handed_on_and_goes_on_admitting(set_stage: SetStage) -> None:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1, history_limit=SHORT)
    pool = stage.client.get_workflow_handle("pool/default")
    holder = await stage.started("user0")
    waiting = [await stage.queued(f"user{n}") for n in range(1, 8)]
    run_id = (await pool.describe()).run_id
    for agent_id in waiting:
        await stage.stop(holder)
        await stage.until(agent_id, AgentState.RUNNING)
        holder = agent_id
    assert (await pool.describe()).run_id != run_id
