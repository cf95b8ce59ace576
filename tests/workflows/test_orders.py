"""What is said to a life late, twice, to the wrong attempt or in the wrong words."""

import asyncio
import json
from typing import Any

import pytest

from core.domain.lifecycle import AgentState
from core.domain.orders import FailureReport, Grant, ReadyReport, RestartOrder, StopOrder
from core.domain.recovery import FailureKind
from tests.fixtures.stage import SetStage, Stage

SLOW = {"restart_backoff_seconds": 600}


async def answered(stage: Stage, **who: str) -> None:
    """Everything said to the workflow before was taken notice of: an update is answered after the signals before it."""
    await stage.lives.start(stage.request(**who))


def late_words(agent_id: str, attempt: int) -> dict[str, Any]:
    return {
        "admitted": Grant(agent_id=agent_id, attempt=attempt),
        "ready": ReadyReport(agent_id=agent_id, attempt=attempt),
        "failed": FailureReport(agent_id=agent_id, attempt=attempt, kind=FailureKind.CRASH),
        "stop": StopOrder(agent_id=agent_id, reason="user_requested"),
        "restart": RestartOrder(agent_id=agent_id),
    }


async def test_words_to_an_ended_life_do_not_reach_the_next_one(stage: Stage) -> None:
    first = await stage.started()
    await stage.stop(first)
    await stage.until_closed()
    second = await stage.started()
    log = await stage.kinds(second)
    for name, word in late_words(first, 1).items():
        await stage.workflow().signal(name, word)
    await answered(stage)
    agent = await stage.agent(second)
    assert (agent.state, agent.attempt, agent.restart_count) == (AgentState.RUNNING, 1, 0)
    assert await stage.kinds(second) == log


async def test_late_grant_and_ready_do_not_start_who_waits(set_stage: SetStage) -> None:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1)
    first = await stage.started("ann")
    second = await stage.queued("bob")
    bob = stage.workflow("bob")
    for name, word in late_words(first, 1).items():
        await bob.signal(name, word)
    await bob.signal("admitted", Grant(agent_id=second, attempt=2))
    await answered(stage, user_id="bob")
    assert (await stage.agent(second)).state is AgentState.QUEUED
    assert await stage.kinds(second) == ["requested", "queued"]


async def test_words_of_an_old_attempt_do_not_reach_the_next_one(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    agent = await stage.until(agent_id, AgentState.RUNNING)
    assert agent.attempt == 2
    for kind in FailureKind:
        report = FailureReport(agent_id=agent_id, attempt=1, kind=kind)
        await stage.workflow().signal("failed", report)
    await answered(stage)
    assert (await stage.agent(agent_id)).restart_count == 1
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING


async def test_same_failure_told_many_times_is_one_restart(set_stage: SetStage) -> None:
    stage = await set_stage(SLOW)
    agent_id = await stage.started()
    await asyncio.gather(*(stage.fail(agent_id, attempt=1) for _ in range(10)))
    await answered(stage)
    await stage.until(agent_id, AgentState.RESTARTING)
    assert (await stage.kinds(agent_id)).count("restarting") == 1


async def test_reason_of_any_length_and_language_ends_a_life(stage: Stage) -> None:
    agent_id = await stage.started()
    reason = "взлом 🙈 " * 60
    await stage.workflow().signal("stop", StopOrder(reason=reason, grace_seconds=0))
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == reason
    await stage.nothing_left()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", ['"now"', "17", '{"reson":"typo"}', '{"grace_seconds":-1}'])
async def test_garbled_order_is_dropped_and_the_next_one_heard(stage: Stage, words: str) -> None:
    agent_id = await stage.started()
    for name in ("stop", "restart", "admitted", "ready", "failed"):
        await stage.workflow().signal(name, json.loads(words))
    await answered(stage)
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    await stage.stop(agent_id)
    await stage.nothing_left()


async def test_order_without_any_words_is_one_of_an_operator(stage: Stage) -> None:
    agent_id = await stage.started()
    for name in ("admitted", "ready", "failed"):
        await stage.workflow().signal(name)
        await stage.workflow().signal(name, None)
    await stage.workflow().signal("restart")
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.workflow().signal("stop")
    assert (await stage.until(agent_id, AgentState.DRAINING)).reason == "operator"
    await stage.nothing_left()


async def test_agent_that_is_still_starting_can_be_restarted(set_stage: SetStage) -> None:
    stage = await set_stage()
    stage.runtime._settings = stage.settings.memory.model_copy(update={"start_seconds": 600})
    agent_id = (await stage.start()).agent_id or ""
    await stage.exists(agent_id)
    stage.runtime._settings = stage.settings.memory
    await stage.lives.restart(await stage.agent(agent_id))
    agent = await stage.until(agent_id, AgentState.RUNNING)
    assert (agent.attempt, agent.restart_count) == (2, 0)
    await stage.stop(agent_id)
    await stage.nothing_left()


async def test_words_that_a_database_cannot_hold_still_move_a_life(stage: Stage) -> None:
    agent_id = await stage.started()
    report = FailureReport(agent_id=agent_id, attempt=1, kind=FailureKind.CRASH).model_dump(mode="json")
    await stage.workflow().signal("failed", report | {"detail": "oops \x00 binary"})
    await stage.until(agent_id, AgentState.RESTARTING)
    assert (await stage.until(agent_id, AgentState.RUNNING)).attempt == 2
    await stage.workflow().signal("stop", {"reason": "a\x00b", "grace_seconds": 0})
    await stage.until(agent_id, AgentState.TERMINATED)
    told = [event.detail.get("detail") for event in await stage.events(agent_id)]
    assert "oops \ufffd binary" in told


async def test_failure_that_an_api_of_a_release_before_dates_still_moves_a_life(stage: Stage) -> None:
    agent_id = await stage.started()
    report = FailureReport(agent_id=agent_id, attempt=1, kind=FailureKind.HEALTH).model_dump(mode="json")
    await stage.workflow().signal("failed", report | {"at": "2026-03-01T09:30:00Z"})
    await stage.until(agent_id, AgentState.RESTARTING)
    assert (await stage.until(agent_id, AgentState.RUNNING)).attempt == 2
