"""Stopping with and without grace, and taking the warning back."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from core.db.repositories import commands
from core.domain.lifecycle import AgentState
from core.domain.orders import StartOutcome
from core.domain.recovery import FailureKind
from core.domain.templates import Simulation, Template
from core.runtime.base import Usage
from tests.fakes.stubborn import Stubborn
from tests.fixtures.stage import SetStage, Stage, until

LONG = {"grace_seconds": 600}


async def draining(stage: Stage, reason: str = "inactivity", **fields: float) -> str:
    """Id of an agent in its grace."""
    agent_id = await stage.started()
    await stage.stop(agent_id, reason, **fields)
    await stage.until(agent_id, AgentState.DRAINING)
    return agent_id


async def kept(stage: Stage, agent_id: str) -> bool:
    return await asyncio.wait_for(stage.lives.keep(await stage.agent(agent_id)), 10)


async def test_agent_kept_within_its_grace_runs_on(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await draining(stage)
    assert await kept(stage, agent_id)
    agent = await stage.agent(agent_id)
    assert (agent.state, agent.reason, agent.deadline_at, agent.keepable) == (AgentState.RUNNING, None, None, False)
    assert (await stage.kinds(agent_id))[-3:] == ["warning", "draining", "kept"]
    # The kept agent is whole: it can be drained and kept once more, and stopped.
    await stage.stop(agent_id, "inactivity")
    await stage.until(agent_id, AgentState.DRAINING)
    assert await kept(stage, agent_id)
    await stage.stop(agent_id)
    await stage.nothing_left()


@pytest.mark.parametrize("reason", ["maintenance", "resource_pressure", "subscription_expired", "max_life"])
async def test_warning_that_is_not_the_users_to_take_back_stands(set_stage: SetStage, reason: str) -> None:
    stage = await set_stage({"grace_seconds": 1})
    agent_id = await draining(stage, reason)
    assert not await kept(stage, agent_id)
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == reason


async def test_keep_that_comes_after_the_grace_is_refused_and_blocks_nothing(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 0.2, "shutdown_seconds": 10})
    # An agent that takes its time to leave: the grace is over, the end is not reached.
    leaving, may_leave = asyncio.Event(), asyncio.Event()
    delete = stage.runtime.delete

    async def slow_delete(agent_id: str, attempt: int, grace_seconds: float = 0) -> object:
        leaving.set()
        await may_leave.wait()
        return await delete(agent_id, attempt, 0)

    stage.runtime.delete = slow_delete  # type: ignore[method-assign, assignment]
    agent_id = await draining(stage)
    await asyncio.wait_for(leaving.wait(), 10)
    assert not await kept(stage, agent_id)
    may_leave.set()
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.until_closed()
    assert (await stage.start()).outcome is StartOutcome.CREATED


async def test_agent_that_breaks_in_its_grace_ends_rather_than_being_kept(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await draining(stage)
    await stage.fail(agent_id)
    ended = await stage.until(agent_id, AgentState.TERMINATED, AgentState.RUNNING, AgentState.RESTARTING)
    assert (ended.state, ended.reason) == (AgentState.TERMINATED, "inactivity")
    assert "kept" not in await stage.kinds(agent_id)


async def test_user_ends_the_grace_early(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await draining(stage)
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()


async def test_second_warning_shortens_no_grace_and_takes_the_keep_away(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await draining(stage)
    deadline = (await stage.agent(agent_id)).deadline_at
    await stage.stop(agent_id, "maintenance")
    assert not await kept(stage, agent_id)
    agent = await stage.agent(agent_id)
    assert (agent.state, agent.deadline_at, agent.keepable) == (AgentState.DRAINING, deadline, False)


async def test_countdown_follows_a_stop_that_shortens_the_grace(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await draining(stage)
    before = (await stage.agent(agent_id)).deadline_at
    assert before is not None
    await stage.stop(agent_id, "user_requested", grace_seconds=300)

    async def sooner() -> bool:
        return (await stage.agent(agent_id)).deadline_at != before

    await until(sooner, "the row to have the shorter deadline")
    agent = await stage.agent(agent_id)
    assert agent.deadline_at is not None
    assert timedelta(seconds=295) < before - agent.deadline_at < timedelta(seconds=325)
    warning = (await stage.events(agent_id))[-1]
    assert warning.kind == "agent.warning"
    assert datetime.fromisoformat(warning.detail["deadlineAt"]) == agent.deadline_at
    # It was only made shorter: it can still be taken back.
    assert agent.keepable
    assert await kept(stage, agent_id)


async def test_countdown_is_over_for_who_watches_an_agent_that_was_told_to_save_at_once(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600, "shutdown_seconds": 600})
    agent_id, stubborn = await draining(stage), Stubborn(stage.runtime)
    await stage.stop(agent_id)
    await asyncio.wait_for(stubborn.asked.wait(), 10)
    agent = await stage.agent(agent_id)
    assert (agent.state, agent.deadline_at, agent.keepable) == (AgentState.DRAINING, None, False)
    await stage.stop(agent_id, "operator", force=True)
    await stage.until(agent_id, AgentState.TERMINATED)


async def test_force_is_heard_while_the_agent_saves(set_stage: SetStage) -> None:
    stage = await set_stage({"shutdown_seconds": 600})
    agent_id, stubborn = await stage.started(), Stubborn(stage.runtime)
    await stage.stop(agent_id)
    await asyncio.wait_for(stubborn.asked.wait(), 10)
    await stage.stop(agent_id)  # without force it is no more than was said already
    await stage.stop(agent_id, "operator", force=True)
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == "user_requested"
    await stage.nothing_left()


async def test_own_stop_has_no_grace_unless_asked_for(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await draining(stage, "user_requested", grace_seconds=300)
    assert await kept(stage, agent_id)
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    assert (await stage.kinds(agent_id))[-2:] == ["draining", "terminated"]


async def test_agent_that_is_not_usable_yet_is_stopped_without_grace(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    stage.runtime._settings = stage.settings.memory.model_copy(update={"start_seconds": 600})
    agent_id = (await stage.start()).agent_id or ""
    await stage.until(agent_id, AgentState.STARTING)
    await stage.stop(agent_id, grace_seconds=300)
    await stage.until(agent_id, AgentState.TERMINATED)
    assert "warning" not in await stage.kinds(agent_id)
    await stage.nothing_left()


async def test_stop_during_a_restart_is_not_lost(stage: Stage) -> None:
    agent_id = await stage.started()
    removing, may_go_on = asyncio.Event(), asyncio.Event()
    delete = stage.runtime.delete

    async def slow_delete(agent_id: str, attempt: int, grace_seconds: float = 0) -> object:
        removing.set()
        await may_go_on.wait()
        return await delete(agent_id, attempt, 0)

    stage.runtime.delete = slow_delete  # type: ignore[method-assign, assignment]
    await stage.lives.restart(await stage.agent(agent_id))
    await asyncio.wait_for(removing.wait(), 10)
    await stage.stop(agent_id)
    may_go_on.set()
    await stage.until(agent_id, AgentState.TERMINATED)
    assert "ready" not in (await stage.kinds(agent_id))[5:]
    await stage.nothing_left()


async def told_at_once(stage: Stage) -> str:
    """Id of an agent that is told to go by force, and then by its user, before its workflow hears of either."""
    agent_id = await stage.started()
    await stage.worker_down()
    await stage.stop(agent_id, "operator", force=True)
    await stage.stop(agent_id, "user_requested", grace_seconds=300)
    await stage.worker_up()
    return agent_id


async def test_stop_that_comes_right_after_a_forced_one_weakens_it_not(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await told_at_once(stage)
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == "operator"
    assert "warning" not in await stage.kinds(agent_id)


async def test_restart_asked_for_beside_a_stop_spoils_no_grace(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await stage.started()
    agent = await stage.agent(agent_id)
    await stage.worker_down()
    await stage.stop(agent_id, "inactivity")
    await stage.lives.restart(agent)
    await stage.worker_up()
    await stage.until(agent_id, AgentState.DRAINING)
    assert await kept(stage, agent_id)
    assert (await stage.agent(agent_id)).restart_count == 0


async def test_command_that_a_user_named_like_our_order_puts_off_no_shutdown(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.sql("UPDATE channels SET connected_at = now() WHERE agent_id = :agent", agent=agent_id)
    await stage.command(agent_id, "state", "shutdown-1")
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    (ordered,) = await stage.sql("SELECT command_id FROM commands WHERE kind = 'graceful_shutdown'")
    # No Idempotency-Key has a space, so no user can name any command so.
    assert " " in ordered["command_id"]


async def heedless(set_stage: SetStage, monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, str, list[float]]:
    """An agent with a channel, which has 1.5 s to leave and runs until it is killed.

    Returns with it the seconds that its runtime is told to give it, once it is.
    """
    stage = await set_stage(
        {"shutdown_seconds": 1.5}, templates={"default": Template(simulation=Simulation(ignores_shutdown=True))}
    )
    graces: list[float] = []
    delete = stage.runtime.delete

    async def told(agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        graces.append(grace_seconds)
        return await delete(agent_id, attempt, grace_seconds)

    monkeypatch.setattr(stage.runtime, "delete", told)
    agent_id = await stage.started()
    await stage.sql("UPDATE channels SET connected_at = now() WHERE agent_id = :agent", agent=agent_id)
    return stage, agent_id, graces


@pytest.mark.parametrize("sent", ["sent", "not sent"])
async def test_agent_that_stays_is_told_by_a_signal_too_within_the_same_time(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    stage, agent_id, graces = await heedless(set_stage, monkeypatch)
    await stage.stop(agent_id)

    async def ordered() -> bool:
        return bool(await stage.sql("SELECT 1 FROM commands WHERE kind = 'graceful_shutdown'"))

    await until(ordered, "the agent to be ordered to leave")
    if sent == "sent":
        await stage.sql("UPDATE commands SET state = 'done', ended_at = now() WHERE kind = 'graceful_shutdown'")
    await stage.nothing_left()
    (grace,) = graces
    assert 0 < grace <= 0.5


async def test_agent_whose_time_was_over_before_anybody_saw_to_it_is_told_by_a_signal(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, agent_id, graces = await heedless(set_stage, monkeypatch)
    async with stage.db.transaction() as session:
        told, long_ago = {"reason": "user_requested", "withinSeconds": 1.5}, datetime.now(UTC) - timedelta(hours=1)
        await commands.order_shutdown(session, agent_id, 1, told, long_ago)
    await stage.stop(agent_id)
    await stage.nothing_left()
    assert graces == [1.5]


async def test_removed_by_force_skips_warning_and_saving(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await stage.started()
    await stage.stop(agent_id, "operator", force=True)
    await stage.until(agent_id, AgentState.TERMINATED)
    assert (await stage.kinds(agent_id))[-2:] == ["draining", "terminated"]


async def test_agent_that_vanished_while_draining_still_ends_once(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await draining(stage)
    await stage.fail(agent_id, FailureKind.RUNTIME_GONE)
    await stage.fail(agent_id, FailureKind.RUNTIME_GONE)
    await stage.until(agent_id, AgentState.TERMINATED)

    async def closed() -> bool:
        return (await stage.workflow().describe()).close_time is not None

    await until(closed, "the workflow to be closed")
    assert (await stage.kinds(agent_id)).count("terminated") == 1
