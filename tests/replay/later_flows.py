"""Flows of what came to lives later, whose histories are checked in as those of `flows.py` are."""

import pytest

from core.domain.lifecycle import AgentState
from core.domain.orders import AbandonOrder, StopOrder
from core.domain.timings import Timings
from tests.fixtures.stage import SetStage, Stage
from tests.replay.keeping import keep
from tests.workflows.test_alterations import told_to_move_on_its_way_out
from tests.workflows.test_draining import LONG, draining, kept, told_at_once
from tests.workflows.test_forgotten_starts import started_behind_one_told_to_go
from tests.workflows.test_giving_up import Deaf
from tests.workflows.test_idleness import handed_on_unused, waited_then_ran
from tests.workflows.test_keeping import warned_in_a_lost_step
from tests.workflows.test_outages import BRIEF, moved_and_stopped_in_an_outage
from tests.workflows.test_recovery import lost_its_host_after_three_crashes
from tests.workflows.test_starts import HUGE, refused_beside_another
from tests.workflows.test_succession import kept_unheard, stopped_and_started_unready, unheard


async def test_told_twice_at_once(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    await told_at_once(stage)
    await stage.until_closed()
    await keep(stage, "told_twice_at_once")


async def test_waited_then_lived_its_longest(set_stage: SetStage) -> None:
    stage, _ = await waited_then_ran(set_stage)
    await stage.forward(3601)
    await stage.until_closed()
    await keep(stage, "waited_then_lived_its_longest")


async def test_refused_beside_another(set_stage: SetStage) -> None:
    stage = await set_stage(LONG, templates=HUGE)
    started = await refused_beside_another(stage)
    first = (await stage.workflow().describe()).raw_description.workflow_execution_info.first_run_id
    await stage.stop(started.agent_id or "")
    await stage.until_closed()
    await keep(stage, "refused_beside_another", run_id=first)


async def test_asked_for_while_a_drain_was_written(set_stage: SetStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await set_stage(LONG)
    first, answer = await unheard(stage, monkeypatch)
    run_id = (await stage.workflow().describe()).run_id
    await stage.stop(first)
    await stage.until(answer.agent_id or "", AgentState.RUNNING)
    await stage.stop(answer.agent_id or "")
    await stage.until_closed()
    await keep(stage, "asked_for_while_a_drain_was_written", run_id=run_id)


async def test_given_up_by_an_operator(stage: Stage) -> None:
    """Its history is of before an operator's word left the runtime a last chance."""
    agent_id = await stage.started()
    deaf = Deaf(stage)
    await stage.stop(agent_id)
    await deaf.was_asked()
    await stage.lives.abandon(await stage.agent(agent_id), AbandonOrder(detail="it burnt"), stage.settings.timings)
    await stage.until(agent_id, AgentState.TERMINATED)
    await keep(stage, "given_up_by_an_operator")


async def test_kept_while_its_warning_was_written(set_stage: SetStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await set_stage(LONG)
    agent_id, _ = await kept_unheard(stage, monkeypatch)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "kept_while_its_warning_was_written")


async def test_restarted_after_a_crash_that_was_not_acted_upon_yet(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.worker_down()
    await stage.fail(agent_id)
    await stage.lives.restart(await stage.agent(agent_id))
    await stage.worker_up()
    await stage.until_runs(agent_id, 2)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "restarted_after_a_crash_that_was_not_acted_upon_yet")


async def test_kept_once_that_was_on_record(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await draining(stage)
    assert await kept(stage, agent_id)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "kept_once_that_was_on_record")


async def test_handed_on_while_idle(set_stage: SetStage) -> None:
    stage = await set_stage(Timings())
    agent_id = await stage.started()
    await handed_on_unused(stage, agent_id, minutes=20)
    await stage.forward(11 * 60)
    await stage.until(agent_id, AgentState.DRAINING)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "handed_on_while_idle")


async def test_warned_after_an_outage(set_stage: SetStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await set_stage(BRIEF)
    await moved_and_stopped_in_an_outage(stage, monkeypatch)
    await stage.forward(BRIEF["grace_seconds"] + 1)
    await stage.until_closed()
    await keep(stage, "warned_after_an_outage")


async def test_started_behind_one_told_to_go(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, _, third = await started_behind_one_told_to_go(stage)
    run_id = (await stage.workflow().describe()).run_id
    await stage.stop(first)
    await stage.until(third, AgentState.RUNNING)
    await stage.stop(third)
    await stage.until_closed()
    await keep(stage, "started_behind_one_told_to_go", run_id=run_id)


async def test_stopped_and_started_unready(set_stage: SetStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await set_stage(LONG)
    await stopped_and_started_unready(stage, monkeypatch)
    await stage.workflow().signal("stop", StopOrder(grace_seconds=0))
    await stage.until_closed()
    await keep(stage, "stopped_and_started_unready")


async def test_warned_in_a_lost_step(set_stage: SetStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await set_stage(LONG)
    agent_id = await warned_in_a_lost_step(stage, monkeypatch)
    assert await kept(stage, agent_id)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "warned_in_a_lost_step")


async def test_lost_its_host_after_three_crashes(stage: Stage) -> None:
    agent_id = await lost_its_host_after_three_crashes(stage)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "lost_its_host_after_three_crashes")


async def test_told_to_move_while_a_restart_was_written(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id, _ = await told_to_move_on_its_way_out(stage, stage.fail)
    await stage.until_runs(agent_id, 2)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "told_to_move_while_a_restart_was_written")
