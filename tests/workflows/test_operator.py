"""An operator's hands on a life: signal, cancel, terminate, show, with the real program."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from activities import reaping
from core.domain.lifecycle import AgentState
from core.domain.orders import StartOutcome
from temporal import schedules
from tests.fixtures.orphans import orphaned
from tests.fixtures.stage import SetStage, Stage, until
from tests.workflows.test_draining import draining


async def test_signal_by_hand_drains_with_the_grace_of_its_reason_or_at_once(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600})
    agent_id = await stage.started()
    workflow_id = stage.workflow().id
    say = ("workflow", "signal", "--workflow-id", workflow_id, "--name", "stop", "--input")
    await stage.temporal(*say, '{"reason":"operator"}')
    draining = await stage.until(agent_id, AgentState.DRAINING)
    assert draining.reason == "operator"
    assert draining.deadline_at is not None
    await stage.temporal(*say, '{"reason":"operator","grace_seconds":0}')
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()


@pytest.mark.parametrize("waits", [True, False])
async def test_cancel_by_hand_is_a_stop_without_grace(set_stage: SetStage, waits: bool) -> None:
    stage = await set_stage({"grace_seconds": 600}, capacity=0 if waits else 1)
    agent_id = await stage.queued() if waits else await stage.started()
    await stage.temporal("workflow", "cancel", "--workflow-id", stage.workflow().id)
    ended = await stage.until(agent_id, AgentState.CANCELLED, AgentState.TERMINATED)
    assert ended.state is (AgentState.CANCELLED if waits else AgentState.TERMINATED)
    assert ended.reason == "workflow_cancelled"
    await stage.nothing_left()


async def test_cancel_in_the_midst_of_a_start_leaves_nothing(stage: Stage) -> None:
    stage.runtime._settings = stage.settings.memory.model_copy(update={"start_seconds": 600})
    agent_id = (await stage.start()).agent_id or ""
    await stage.exists(agent_id)
    await stage.temporal("workflow", "cancel", "--workflow-id", stage.workflow().id)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()


@pytest.mark.parametrize("state", [AgentState.QUEUED, AgentState.STARTING, AgentState.RUNNING, AgentState.DRAINING])
async def test_terminate_by_hand_leaves_nothing_after_two_looks_of_the_reaper(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch, state: AgentState
) -> None:
    monkeypatch.setattr(reaping, "_SETTLE", timedelta(seconds=0.2))
    stage = await set_stage(
        {"grace_seconds": 600, "ready_deadline_seconds": 600, "grant_tick_seconds": 600},
        capacity=0 if state is AgentState.QUEUED else 1,
    )
    if state is AgentState.STARTING:
        stage.runtime._settings = stage.settings.memory.model_copy(update={"start_seconds": 600})
    agent_id = (await stage.start()).agent_id or ""
    if state is AgentState.DRAINING:
        await stage.until(agent_id, AgentState.RUNNING)
        await stage.stop(agent_id, "maintenance")
    await stage.until(agent_id, state)
    await stage.temporal("workflow", "terminate", "--workflow-id", stage.workflow().id, "--reason", "stuck")
    await schedules.ensure(stage.client, reap_seconds=1, pressure_seconds=60)
    await stage.until(agent_id, AgentState.TERMINATED, AgentState.CANCELLED)
    await stage.nothing_left()
    assert (await stage.agent(agent_id)).reason == "workflow_gone"
    reaper = await stage.client.get_schedule_handle(schedules.REAPER_SCHEDULE).describe()
    assert 1 <= reaper.info.num_actions <= 3


async def test_slot_of_a_terminated_agent_goes_to_who_waits(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "_SETTLE", timedelta(0))
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1)
    await stage.started("ann")
    second = await stage.queued("bob")
    await orphaned(stage, "ann")

    async def found() -> bool:
        # A list of workflows may be a moment old.
        return (await stage.reap()).rows == 1

    await until(found, "the reaper to find what was left")
    await stage.until(second, AgentState.RUNNING)


async def test_start_right_after_a_terminate_clears_up_behind_it(stage: Stage) -> None:
    first = await stage.started()
    await stage.temporal("workflow", "terminate", "--workflow-id", stage.workflow().id)
    answer = await stage.start()
    assert answer.outcome is StartOutcome.CREATED
    assert answer.agent_id != first
    await stage.until(answer.agent_id or "", AgentState.RUNNING)
    assert (await stage.agent(first)).state is AgentState.TERMINATED
    assert [seen.agent_id for seen in await stage.runtime.list()] == [answer.agent_id]


async def test_start_right_after_a_terminate_of_two_lives_clears_up_behind_both(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600})
    first = await draining(stage, "maintenance")
    second = await stage.queued()
    await orphaned(stage)
    third = await stage.started()
    assert (await stage.agent(first)).state is AgentState.TERMINATED
    assert (await stage.agent(second)).state is AgentState.CANCELLED
    assert (await stage.agent(third)).state is AgentState.RUNNING
    await stage.stop(third)
    await stage.nothing_left()


async def test_history_of_a_life_reads_as_the_life(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.stop(agent_id)
    await stage.until_closed()
    shown = await stage.temporal("workflow", "show", "--workflow-id", stage.workflow().id, "--output", "json")
    story = []
    for event in json.loads(shown)["events"]:
        if attributes := event.get("activityTaskScheduledEventAttributes"):
            story.append(attributes["activityType"]["name"])
        elif attributes := event.get("markerRecordedEventAttributes"):
            story.append(_activity_of(attributes))
        elif attributes := event.get("workflowExecutionSignaledEventAttributes"):
            story.append(f"<{attributes['signalName']}>")
        elif "workflowExecutionCompletedEventAttributes" in event:
            story.append("completed")
    assert story == [
        "register",
        "create_agent",
        "<ready>",
        "mark_running",
        "<stop>",
        "mark_draining",
        "shut_down_agent",
        "finish",
        "completed",
    ]
    described = await stage.workflow().describe()
    found = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert {name: value for name, value in found.items() if name.startswith("Agent")} == {
        "AgentId": agent_id,
        "AgentState": "terminated",
        "AgentUser": "ann",
        "AgentProject": "shop",
        "AgentPool": "default",
        "AgentReason": "user_requested",
    }


def _activity_of(marker: dict[str, Any]) -> str:
    """The name that a local activity's marker bears."""
    data = marker["details"]["data"]["payloads"][0]["data"]
    return str(json.loads(data if data.startswith("{") else base64.b64decode(data))["activity_type"])


async def test_agents_are_found_by_their_user_state_and_pool(stage: Stage) -> None:
    agent_id = await stage.started("ann", "a shop")
    query = "AgentUser='ann' AND AgentProject='a shop' AND AgentPool='default' AND AgentState='running'"

    async def listed() -> bool:
        found = json.loads(await stage.temporal("workflow", "list", "--query", query, "--output", "json"))
        return [run["execution"]["workflowId"] for run in found] == [stage.workflow("ann", "a shop").id]

    await until(listed, f"{agent_id} to be listed")


@pytest.mark.parametrize("point", ["the first decision", "the first attempt running"])
async def test_life_that_was_reset_to_an_earlier_attempt_is_mended_and_stopped_as_any_other(
    stage: Stage, point: str
) -> None:
    agent_id = await stage.started()
    history = await stage.workflow().fetch_history()
    decided = [event.event_id for event in history.events if event.HasField("workflow_task_completed_event_attributes")]
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    assert (await stage.until(agent_id, AgentState.RUNNING)).attempt == 2
    back_to = decided[0] if point == "the first decision" else decided[-1]
    workflow_id = stage.workflow().id
    reset = ("workflow", "reset", "--workflow-id", workflow_id, "--event-id", str(back_to), "--reason", "by hand")
    await stage.temporal(*reset)
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    await stage.fail(agent_id, attempt=2)
    await stage.until(agent_id, AgentState.RESTARTING)
    assert (await stage.until(agent_id, AgentState.RUNNING)).attempt == 3
    await stage.temporal(*reset)
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()
    await stage.legal_log()
