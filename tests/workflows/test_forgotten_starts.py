"""Starts that were accepted and that their workflow has forgotten, or is just letting go of, and those behind them."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from activities.contracts import Ended, Registration
from activities.lives import LifeActivities
from core.db.repositories import locks
from core.domain.lifecycle import AgentState
from core.domain.orders import StartOutcome, StartRequest, StopOrder
from core.ids import new_agent_id
from tests.fixtures.stage import SetStage, Stage
from tests.workflows.test_draining import LONG, draining
from tests.workflows.test_succession import owned_by, succeeded


async def forgotten(stage: Stage, predecessor: str, request: StartRequest | None = None) -> str:
    """Id of an agent whose start was accepted and then dropped: its row is there, and no workflow heard of it.

    The workflow task in which it was registered failed, and its caller did not ask again.
    """
    request = request or stage.request()
    ask = Registration(request=request, workflow_id=stage.workflow().id, predecessor=predecessor)
    await LifeActivities(stage.db, stage.settings, stage.lives).register(ask)
    return request.agent_id


async def end_unheard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[str, asyncio.Event]:
    """An agent whose end is in its row alone: whoever wrote it dies of it, until the event is set."""
    agent_id, answers = await stage.started(), asyncio.Event()
    told = LifeActivities._ended

    async def dies(self: LifeActivities, *what: Any) -> Ended:
        if not answers.is_set():
            raise ConnectionError("killed")
        return await told(self, *what)

    monkeypatch.setattr(LifeActivities, "_ended", dies)
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    return agent_id, answers


async def test_start_after_an_end_that_is_in_the_row_alone_is_carried_out_when_both_are_forgotten(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG)
    first, answers = await end_unheard(stage, monkeypatch)
    second = await forgotten(stage, first)
    # There was room for it.
    assert (await stage.agent(second)).state is AgentState.STARTING
    answers.set()
    await stage.until(second, AgentState.RUNNING)
    await owned_by(stage, second)
    assert await stage.kinds(second) == ["requested", "queued", "admitted", "starting", "ready"]
    await stage.stop(second)
    await stage.nothing_left()


async def test_key_that_is_asked_again_finds_the_life_that_was_forgotten_with_its_start(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG)
    first, answers = await end_unheard(stage, monkeypatch)
    keyed = stage.request().model_copy(update={"key": "once", "body_hash": "of it"})
    second = await forgotten(stage, first, keyed)
    again = keyed.model_copy(update={"agent_id": new_agent_id()})
    asking = asyncio.create_task(stage.insist(again))
    await stage.took("start", again.agent_id)
    answers.set()
    assert (await asking).agent_id == second
    await stage.until(second, AgentState.RUNNING)
    await owned_by(stage, second)
    await stage.stop(second)
    await stage.nothing_left()


async def test_start_that_was_accepted_and_forgotten_is_carried_out(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first = await draining(stage, "maintenance")
    second = await forgotten(stage, first)
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    await owned_by(stage, second)
    assert await stage.kinds(second) == ["requested", "queued", "admitted", "starting", "ready"]
    await stage.stop(second)
    await stage.nothing_left()


@pytest.mark.parametrize("named", [True, False])
async def test_start_that_was_forgotten_and_then_stopped_leaves_the_line(set_stage: SetStage, named: bool) -> None:
    stage = await set_stage(LONG)
    first = await draining(stage, "maintenance")
    second = await forgotten(stage, first)
    order = StopOrder(agent_id=second if named else None, reason="operator", grace_seconds=0)
    await stage.workflow().signal("stop", order)
    if named:
        await stage.stop(first)
    # The queue may have given it the free slot just before; nothing was made for it then.
    await stage.until(second, AgentState.CANCELLED, AgentState.TERMINATED)
    assert "starting" not in await stage.kinds(second)
    await stage.until(first, AgentState.TERMINATED)
    await stage.until_closed()
    await stage.nothing_left()


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
