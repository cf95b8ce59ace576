"""Starting anew while the last life is still ending: who waits behind whom, and who takes over."""

import asyncio
import contextlib
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.contracts import Registered, Registration
from activities.lives import LifeActivities
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartOutcome, StopOrder
from core.domain.templates import Pool
from core.errors import Unavailable
from tests.fixtures.stage import SetStage, Stage, until
from tests.workflows.test_draining import LONG, draining
from workflows.options import AGENT_ID, AGENT_POOL


async def succeeded(stage: Stage, reason: str = "maintenance") -> tuple[str, str]:
    """An agent in its grace, and the one that waits behind it."""
    first = await draining(stage, reason)
    answer = await stage.start()
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, "previous_ending")
    assert answer.agent_id is not None
    return first, answer.agent_id


async def drain_unheard(stage: Stage, monkeypatch: pytest.MonkeyPatch, reason: str) -> tuple[str, asyncio.Event]:
    """An agent whose drain is in its row alone: whoever wrote it dies of it, until the event is set."""
    agent_id, answers = await stage.started(), asyncio.Event()

    async def dies(*_: object) -> None:
        if not answers.is_set():
            raise ConnectionError("killed")

    monkeypatch.setattr(LifeActivities, "_start_over", dies)
    await stage.stop(agent_id, reason)
    await stage.until(agent_id, AgentState.DRAINING)
    return agent_id, answers


async def kept_unheard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bool]:
    """An agent that is asked to be kept while its drain is in its row alone, and whether it was."""
    agent_id, answers = await drain_unheard(stage, monkeypatch, "inactivity")
    draining = await stage.agent(agent_id)

    async def insist() -> bool:
        while True:
            with contextlib.suppress(Unavailable):
                return await stage.lives.keep(draining)

    asking = asyncio.create_task(insist())
    await stage.took("keep", agent_id)
    answers.set()
    return agent_id, await asyncio.wait_for(asking, 30)


async def unheard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[str, StartAnswer]:
    """An agent whose drain was written by a worker that died before it could say so, and a start of that moment."""
    first, answers = await drain_unheard(stage, monkeypatch, "maintenance")
    request = stage.request()
    asking = asyncio.create_task(stage.insist(request))
    await stage.took("start", request.agent_id)
    answers.set()
    return first, await asking


async def owned_by(stage: Stage, agent_id: str) -> None:
    async def owns() -> bool:
        found = await stage.lives.owner(stage.workflow().id)
        return found is not None and found.agent_id == agent_id

    await until(owns, f"{agent_id} to own the workflow")


async def test_start_while_ending_waits_and_becomes_a_new_life_of_the_same_workflow(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, second = await succeeded(stage)
    assert first != second
    again = await stage.start()
    assert (again.outcome, again.agent_id) == (StartOutcome.QUEUED, second)
    assert (await stage.agent(first)).state is AgentState.DRAINING
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    ended, running = await stage.agent(first), await stage.agent(second)
    assert ended.state is AgentState.TERMINATED
    assert ended.workflow_id == running.workflow_id
    assert await stage.kinds(second) == ["requested", "queued", "admitted", "starting", "ready"]
    # The next life is a whole one: it restarts, is kept, and ends.
    await stage.fail(second)
    await stage.until(second, AgentState.RESTARTING)
    await stage.until(second, AgentState.RUNNING)
    await stage.stop(second)
    await stage.nothing_left()


async def test_start_between_a_drain_that_is_written_and_its_word_is_a_new_life(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG)
    first, answer = await unheard(stage, monkeypatch)
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, "previous_ending")
    second = answer.agent_id or ""
    assert second != first
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    await stage.stop(second)
    await stage.nothing_left()


async def test_successor_is_the_workflows_own_as_soon_as_it_takes_over(set_stage: SetStage) -> None:
    stage = await set_stage(LONG, capacity=1)
    first, second = await succeeded(stage)
    bob = await stage.queued("bob", "bar", tier="enterprise")
    await stage.stop(first)
    # Somebody goes before the successor, so it waits in a workflow that was handed to it.
    await stage.until(bob, AgentState.RUNNING)
    await owned_by(stage, second)
    assert (await stage.agent(second)).state is AgentState.QUEUED
    listed = await stage.lives.owners()
    assert listed[stage.workflow().id] == second
    await stage.stop(bob)
    await stage.until(second, AgentState.RUNNING)


async def test_stopped_successor_leaves_its_predecessor_alone(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, second = await succeeded(stage)
    await stage.stop(second)
    assert (await stage.until(second, AgentState.CANCELLED)).reason == "user_requested"
    assert (await stage.agent(first)).state is AgentState.DRAINING
    third = await stage.queued()
    assert third not in (first, second)
    await stage.stop(first)
    await stage.until(third, AgentState.RUNNING)


async def test_successor_that_is_stopped_before_its_workflow_knows_of_it_leaves_the_line(
    set_stage: SetStage,
) -> None:
    """Its row is there before the workflow has heard so, and longer when a worker dies in between."""
    stage = await set_stage(LONG)
    first = await draining(stage, "maintenance")
    await stage.worker_down()
    request = stage.request()
    order = StopOrder(agent_id=request.agent_id, reason="user_requested")
    await stage.workflow().signal("stop", order)
    answer = asyncio.create_task(stage.lives.start(request))
    await stage.worker_up()
    assert (await answer).agent_id == request.agent_id
    assert (await stage.until(request.agent_id, AgentState.CANCELLED)).reason == "user_requested"
    assert (await stage.agent(first)).state is AgentState.DRAINING
    await stage.stop(first)
    await stage.nothing_left()


async def test_without_its_successor_the_workflow_ends_with_its_life(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, second = await succeeded(stage)
    await stage.stop(second)
    await stage.until(second, AgentState.CANCELLED)
    await stage.stop(first)
    await stage.nothing_left()
    await stage.until_closed()


async def test_keep_is_refused_once_a_successor_stands_in_line(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, second = await succeeded(stage, "inactivity")
    assert not await asyncio.wait_for(stage.lives.keep(await stage.agent(first)), 10)
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)


async def test_keep_that_comes_before_the_workflow_knows_of_the_warning_takes_it_back(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG)
    agent_id, kept = await kept_unheard(stage, monkeypatch)
    assert kept
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    assert (await stage.kinds(agent_id))[-1] == "kept"


async def test_keep_and_start_at_once_end_with_one_agent(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    for _ in range(4):
        first = await stage.started()
        await stage.stop(first, "inactivity")
        draining = await stage.until(first, AgentState.DRAINING)
        kept, started = await asyncio.wait_for(asyncio.gather(stage.lives.keep(draining), stage.start()), 15)
        if kept:
            assert (started.outcome, started.agent_id) == (StartOutcome.EXISTING, first)
        else:
            assert started.outcome is StartOutcome.QUEUED
            await stage.stop(first)
        current = await stage.until(started.agent_id or "", AgentState.RUNNING)
        await stage.stop(current.agent_id)
        await stage.nothing_left()


async def stopped_and_started_unready(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[str, StartAnswer]:
    """An agent told to go while its workflow wrote that it is usable, and what a start of then was answered."""
    written = asyncio.Event()

    async def held(*_: object) -> None:
        await written.wait()

    monkeypatch.setattr(LifeActivities, "_start_over", held)
    first = (await stage.start()).agent_id or ""
    await stage.until(first, AgentState.RUNNING)
    await stage.stop(first, "maintenance")
    request = stage.request()
    asking = asyncio.create_task(stage.insist(request))
    await stage.took("start", request.agent_id)
    written.set()
    return first, await asking


async def test_start_after_an_order_to_stop_is_for_the_next_life_whatever_is_under_way(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG)
    first, answer = await stopped_and_started_unready(stage, monkeypatch)
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, "previous_ending")
    await stage.stop(first)
    await stage.until(answer.agent_id or "", AgentState.RUNNING)


async def test_successor_in_another_pool_is_found_by_that_pool(set_stage: SetStage) -> None:
    stage = await set_stage(LONG, pools={"other": Pool(runtime="memory", capacity=1)})
    first = await draining(stage, "maintenance")
    second = (await stage.start(pool="other")).agent_id or ""
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    await owned_by(stage, second)
    assert (await stage.workflow().describe()).typed_search_attributes.get(AGENT_POOL) == "other"


async def test_order_that_names_no_agent_ends_the_successor_too(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, second = await succeeded(stage)
    await stage.workflow().signal("stop", StopOrder(grace_seconds=0))
    await stage.until(second, AgentState.CANCELLED)
    await stage.until(first, AgentState.TERMINATED)
    await stage.until_closed()
    await stage.nothing_left()


async def test_cancelled_workflow_ends_the_successor_too(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, second = await succeeded(stage)
    await stage.workflow().cancel()
    await stage.until(second, AgentState.CANCELLED)
    await stage.until(first, AgentState.TERMINATED)
    await stage.until_closed()
    await stage.nothing_left()


async def test_user_whose_only_excess_is_ending_waits_rather_than_being_refused(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first = await stage.started(project_id="shop")
    refused = await stage.start(project_id="bank")
    assert (refused.outcome, refused.reason, refused.action) == (
        StartOutcome.REJECTED,
        "max_agents_exceeded",
        "upgrade_subscription",
    )
    await stage.stop(first, "maintenance")
    await stage.until(first, AgentState.DRAINING)
    waits = await stage.start(project_id="bank")
    assert (waits.outcome, waits.reason) == (StartOutcome.QUEUED, "previous_ending")
    await stage.stop(first)
    await stage.until(waits.agent_id or "", AgentState.RUNNING)
    held = await stage.sql("SELECT count(*) FROM agents WHERE state IN ('starting','running','draining')")
    assert held == [{"count": 1}]


async def test_start_at_the_very_end_of_a_life_is_answered(stage: Stage) -> None:
    """Whichever moment of the ending a start hits, it gets an agent that then runs."""
    for pause in (0, 0.01, 0.02, 0.03, 0.05):
        agent_id = await stage.started()
        await stage.stop(agent_id)
        await asyncio.sleep(pause)
        answer = await stage.start()
        assert answer.agent_id is not None
        if answer.outcome is StartOutcome.EXISTING:
            # It overtook the stop.
            assert answer.agent_id == agent_id
            await stage.nothing_left()
            continue
        await stage.until(answer.agent_id, AgentState.RUNNING)
        await stage.stop(answer.agent_id)
        await stage.nothing_left()


async def test_start_whose_order_the_server_dropped_half_done_gets_the_agent_that_it_began(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that comes while a run is ending fails its task: the successor has its row, and its update is gone."""
    await stage.member("ann", "shop")
    request, order = stage.request(), stage.client.execute_update_with_start_workflow
    dropped: list[Registered] = []

    async def dropped_once(*given: Any, **named: Any) -> Any:
        if dropped:
            return await order(*given, **named)
        asked = Registration(request=request, workflow_id=stage.workflow().id)
        dropped.append(await LifeActivities(stage.db, stage.settings, stage.lives).register(asked))
        raise RPCError("unexpected workflow task failure", RPCStatusCode.FAILED_PRECONDITION, b"")

    monkeypatch.setattr(stage.client, "execute_update_with_start_workflow", dropped_once)
    answer = await stage.lives.start(request)
    assert answer.agent_id == request.agent_id
    await stage.until(request.agent_id, AgentState.RUNNING)
    await stage.stop(request.agent_id)
    await stage.nothing_left()


async def test_keep_that_the_server_dropped_is_asked_again(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG)
    agent_id = await stage.started()
    await stage.stop(agent_id, "inactivity")
    draining = await stage.until(agent_id, AgentState.DRAINING)
    update, drops = WorkflowHandle.execute_update, iter([True])

    async def dropped_once(handle: Any, *given: Any, **named: Any) -> Any:
        if next(drops, False):
            raise RPCError("unexpected workflow task failure", RPCStatusCode.FAILED_PRECONDITION, b"")
        return await update(handle, *given, **named)

    monkeypatch.setattr(WorkflowHandle, "execute_update", dropped_once)
    assert await stage.lives.keep(draining)
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING


async def test_name_of_the_agent_is_searchable_from_its_start(stage: Stage) -> None:
    agent_id = await stage.started()
    described = await stage.workflow().describe()
    assert described.typed_search_attributes[AGENT_ID] == agent_id
