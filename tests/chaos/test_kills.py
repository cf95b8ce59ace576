"""`kill -9` of each part at each state: it comes back, and the life ends as if nothing had happened."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.fixtures.stack import LocalStack, Person, eventually, local_stack

PARTS = ["worker", "api", "temporal", "postgres"]
WHOLE = ["requested", "queued", "admitted", "starting", "ready", "draining", "terminated"]


async def _nothing_held(someone: Person) -> None:
    """The only slot is free again and no agent is left: another one starts and ends."""
    agent_id = await someone.start("after", key="after")
    await someone.until(agent_id, "running")
    await someone.stop(agent_id)
    await someone.until(agent_id, "terminated")


async def _back(stack: LocalStack, part: str, before: int) -> None:
    await stack.replaced(part, before)
    await stack.whole()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.timeout(240)
async def test_a_life_goes_on_when_a_part_is_killed_in_any_of_its_states(local: LocalStack, part: str) -> None:
    ann = await local.user("ann", "shop", "after")
    bob = await local.user("bob", "desk", "after")
    first = await ann.start("shop")
    killed = local.kill(part)  # starting, or just running
    await ann.until(first, "running")
    await _back(local, part, killed)

    second = await bob.start("desk")  # the only slot is taken
    await bob.until(second, "queued")
    killed = local.kill(part)
    await _back(local, part, killed)
    assert (await ann.agent(first))["state"] == "running"
    assert (await bob.agent(second))["state"] == "queued"

    await ann.stop(first, grace=3)
    await ann.until(first, "draining", "terminated")
    killed = local.kill(part)
    await ann.until(first, "terminated")
    await bob.until(second, "running")
    await _back(local, part, killed)
    await bob.stop(second)
    await bob.until(second, "terminated")

    # No restart of a healthy agent, no second attempt, nothing skipped, nothing twice.
    assert [kind for kind in await ann.kinds(first) if kind != "warning"] == WHOLE
    assert await bob.kinds(second) == WHOLE
    for person, agent_id in ((ann, first), (bob, second)):
        events = await person.events(agent_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert (await person.agent(agent_id))["restartCount"] == 0
    await _nothing_held(bob)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.timeout(120)
async def test_a_scheduled_start_is_made_once_when_a_part_is_killed_over_its_time(local: LocalStack, part: str) -> None:
    ann = await local.user("ann", "shop", "after")
    body = {"startAt": (datetime.now(UTC) + timedelta(seconds=3)).isoformat()}
    booked = (
        await ann.ask("POST", "/api/projects/shop/start-agent", json=body, headers={"Idempotency-Key": "k"})
    ).json()
    assert booked["status"] == "scheduled"
    killed = local.kill(part)

    async def started() -> bool:
        (found,) = (await ann.ask("GET", "/api/scheduled-starts")).json()["items"]
        assert found["scheduledStartId"] == booked["scheduledStartId"]
        return str(found["state"]) == "started"

    await eventually(started, "its start")
    await _back(local, part, killed)
    (agent,) = (await ann.ask("GET", "/api/agents")).json()["items"]
    await ann.until(agent["agentId"], "running")
    await ann.stop(agent["agentId"])
    await ann.until(agent["agentId"], "terminated")
    assert [kind for kind in await ann.kinds(agent["agentId"]) if kind != "warning"] == WHOLE
    await _nothing_held(ann)


@pytest.mark.timeout(120)
async def test_agents_of_a_killed_host_die_with_it_and_are_restarted(local: LocalStack) -> None:
    ann = await local.user("ann", "shop", "after")
    agent_id = await ann.start("shop")
    await ann.until(agent_id, "running")
    killed = local.kill("host")
    await eventually(lambda: _restarted(ann, agent_id), "a restart")
    await ann.until(agent_id, "running")
    await _back(local, "host", killed)
    await ann.stop(agent_id)
    await ann.until(agent_id, "terminated")
    await _nothing_held(ann)


async def _restarted(someone: Person, agent_id: str) -> bool:
    return "restarting" in await someone.kinds(agent_id)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("by_hand", ["signal", "cancel", "terminate"])
async def test_what_an_operator_ends_by_hand_leaves_nothing(
    local: LocalStack, by_hand: Literal["signal", "cancel", "terminate"]
) -> None:
    ann = await local.user("ann", "shop", "after")
    agent_id = await ann.start("shop")
    await ann.until(agent_id, "running")
    name = ["-w", f"agent/{ann.user_id}/shop"]
    match by_hand:
        case "signal":
            order = ["--name", "stop", "--input", '{"reason":"operator","grace_seconds":0}']
            await local.temporal("workflow", "signal", *name, *order)
        case "cancel":
            await local.temporal("workflow", "cancel", *name)
        case "terminate":
            # Runs no code of ours: the reaper, every 2 s here, ends what it left once it is ten seconds old.
            await local.temporal("workflow", "terminate", *name, "--reason", "stuck")
    ended = await ann.until(agent_id, "terminated")
    expected = {"signal": "operator", "cancel": "workflow_cancelled", "terminate": "workflow_gone"}
    assert ended["reason"] == expected[by_hand]
    await _nothing_held(ann)


async def test_the_history_of_a_life_reads_as_the_life(local: LocalStack) -> None:
    ann = await local.user("ann", "shop")
    agent_id = await ann.start("shop")
    await ann.until(agent_id, "running")
    await ann.stop(agent_id)
    await ann.until(agent_id, "terminated")
    told = json.loads(await local.temporal("workflow", "show", "-w", f"agent/{ann.user_id}/shop", "--output", "json"))
    steps = [step for step in map(_step, told["events"]) if step]
    assert steps == [
        "start",
        "register",
        "create_agent",
        "ready",
        "mark_running",
        "stop",
        "mark_draining",
        "shut_down_agent",
        "finish",
    ]
    described = json.loads(
        await local.temporal("workflow", "describe", "-w", f"agent/{ann.user_id}/shop", "--output", "json")
    )
    attributes = described["workflowExecutionInfo"]["searchAttributes"]["indexedFields"]
    shown = {name: json.loads(base64.b64decode(value["data"])) for name, value in attributes.items()}
    assert shown["AgentId"] == agent_id
    assert shown["AgentState"] == "terminated"
    assert shown["AgentReason"] == "user_requested"


def _step(event: dict[str, Any]) -> str | None:
    """What a history event tells of the life; None for the server's own bookkeeping."""
    if "workflowExecutionUpdateAcceptedEventAttributes" in event:
        return str(event["workflowExecutionUpdateAcceptedEventAttributes"]["acceptedRequest"]["input"]["name"])
    if "activityTaskScheduledEventAttributes" in event:
        return str(event["activityTaskScheduledEventAttributes"]["activityType"]["name"])
    if "workflowExecutionSignaledEventAttributes" in event:
        return str(event["workflowExecutionSignaledEventAttributes"]["signalName"])
    if "markerRecordedEventAttributes" in event:
        data = event["markerRecordedEventAttributes"]["details"]["data"]["payloads"][0]["data"]
        return str(json.loads(base64.b64decode(data))["activity_type"])
    return None


@pytest.mark.timeout(180)
async def test_an_agent_whose_pool_was_taken_out_of_the_settings_can_still_be_stopped(tmp_path: Path) -> None:
    config, folder = tmp_path / "berth.yaml", tmp_path / "data"
    config.write_text(
        json.dumps({"templates": {"big": {}}, "pools": {"extra": {"runtime": "memory", "template": "big"}}})
    )
    # It dies with its host, and fails once it is begun anew where no pool is left for it: its user comes before that.
    long = {"TIMINGS__RESTART_BACKOFF_SECONDS": "60"}
    async with local_stack(folder, CONFIG=str(config), **long) as before:
        ann = await before.user("ann", "shop")
        agent_id = await ann.start("shop", template="big")
        assert (await ann.until(agent_id, "running"))["pool"] == "extra"
    async with local_stack(folder, **long) as after:
        ann = await after.user("ann", "shop")
        await ann.stop(agent_id)
        await ann.until(agent_id, "terminated")
