"""What a look of the reaper says to a run that cannot act upon it yet: once, and again after a while."""

from datetime import timedelta

import pytest

from activities import reaping, told
from core.domain.lifecycle import AgentState
from tests.fixtures.stage import Stage, until
from tests.workflows.test_giving_up import Deaf
from tests.workflows.test_reaper_runs import end_row
from tests.workflows.test_silence import reaper


async def test_agent_that_cannot_stop_yet_is_not_told_so_by_every_look(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id, deaf = await stage.started(), Deaf(stage)
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    await deaf.was_asked()
    await stage.sql("UPDATE users SET subscription_active_until = now() - interval '1 day'")
    looks = reaper(stage)
    assert [(await looks.look()).subscriptions for _ in range(3)] == [1, 0, 0]
    monkeypatch.setattr(told, "TELL_AGAIN_SECONDS", 0.0)
    assert (await looks.look()).subscriptions == 1, "in the end it is: its run may have been reset"
    deaf.hears()
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == "subscription_expired"


async def test_life_whose_row_is_over_and_that_cannot_end_yet_is_told_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "_SETTLE", timedelta(0))
    agent_id = await stage.started()
    await end_row(stage, agent_id)
    deaf, looks = Deaf(stage), reaper(stage)
    found = await looks.look()
    assert (found.workflows, found.stays) == (1, 1)
    await deaf.was_asked()

    async def waits() -> bool:
        owner = await stage.lives.owner(stage.workflow().id)
        return owner is not None and not owner.deciding

    await until(waits, "the workflow to wait for its runtime")
    found = await looks.look()
    assert found.workflows == 0
    stops = [
        event
        async for event in stage.workflow().fetch_history_events()
        if event.workflow_execution_signaled_event_attributes.signal_name == "stop"
    ]
    assert len(stops) == 1
    deaf.hears()
    await stage.until_closed()
