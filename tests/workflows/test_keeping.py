"""Taking a warning back while another stands in line for the place."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from activities.contracts import Draining
from activities.lives import LifeActivities, life_of
from core.db.repositories import agents
from core.db.repositories.agents import AgentView
from core.domain.lifecycle import AgentState
from core.settings import Project
from tests.fixtures.stage import SetStage, Stage, until
from tests.workflows.test_draining import LONG, draining, kept
from tests.workflows.test_forgotten_starts import forgotten


async def test_life_whose_place_a_forgotten_one_has_is_not_kept_and_hears_on(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first = await draining(stage)
    second = await forgotten(stage, first)
    assert not await kept(stage, first)
    assert (await stage.agent(first)).state is AgentState.DRAINING
    await stage.stop(first)
    await stage.until(first, AgentState.TERMINATED)
    await stage.until(second, AgentState.RUNNING)
    assert "kept" not in await stage.kinds(first)
    await stage.stop(second)
    await stage.nothing_left()


async def test_agent_is_not_kept_where_another_member_has_begun_one_in_the_room_it_made(set_stage: SetStage) -> None:
    stage = await set_stage(LONG, project=Project(max_agents=1))
    first = await draining(stage)
    second = await stage.started("bob")
    assert not await kept(stage, first)
    assert (await stage.agent(first)).state is AgentState.DRAINING
    await stage.stop(second)
    await stage.until(second, AgentState.TERMINATED)
    assert await kept(stage, first)
    await stage.stop(first)
    await stage.nothing_left()


async def test_no_row_is_kept_beside_another_of_its_project(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first = await draining(stage)
    await forgotten(stage, first)
    life = life_of(await stage.agent(first))
    moved = await LifeActivities(stage.db, stage.settings, stage.lives).mark_kept(life)
    assert (moved.applied, moved.state) == (False, AgentState.DRAINING)


async def test_row_that_is_kept_already_says_so_again(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first = await draining(stage)
    life, lives = life_of(await stage.agent(first)), LifeActivities(stage.db, stage.settings, stage.lives)
    told = [await lives.mark_kept(life) for _ in range(2)]
    assert [(each.applied, each.state) for each in told] == [(True, AgentState.RUNNING), (False, AgentState.RUNNING)]


async def test_keep_is_known_to_the_server_before_it_is_written(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a server that dies in between forgets it, and the agent whose row says `running` is ended all the same."""
    stage = await set_stage(LONG)
    first = await draining(stage)
    known: list[bool] = []
    current = agents.current

    async def looked_up(session: AsyncSession, user_id: str, project_id: str) -> AgentView | None:
        events = (await stage.workflow().fetch_history()).events
        accepted = [event.workflow_execution_update_accepted_event_attributes for event in events]
        known.append("keep" in [each.accepted_request.input.name for each in accepted])
        return await current(session, user_id, project_id)

    monkeypatch.setattr(agents, "current", looked_up)
    assert await kept(stage, first)
    assert known == [True]


async def warned_in_a_lost_step(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> str:
    """An agent in its grace, whose workflow lost the step that wrote it usable and warned it, and takes it again."""
    lost = asyncio.Event()

    async def dies(*_: object) -> None:
        if not lost.is_set():
            raise ConnectionError("killed")

    monkeypatch.setattr(LifeActivities, "_start_over", dies)
    agent_id = (await stage.start()).agent_id or ""
    life = life_of(await stage.until(agent_id, AgentState.RUNNING))
    await stage.stop(agent_id, "inactivity")
    ends = datetime.now(UTC) + timedelta(minutes=10)
    warning = Draining(life=life, reason="inactivity", deadline_at=ends, keepable=True)
    with contextlib.suppress(ConnectionError):
        await LifeActivities(stage.db, stage.settings, stage.lives).mark_draining(warning)
    await stage.until(agent_id, AgentState.DRAINING)
    await until(lambda: _heard_of_stop(stage), "the workflow to hear of the stop")
    lost.set()
    return agent_id


async def _heard_of_stop(stage: Stage) -> bool:
    events = (await stage.workflow().fetch_history()).events
    told = [
        event.event_id for event in events if event.workflow_execution_signaled_event_attributes.signal_name == "stop"
    ]
    steps = [event.event_id for event in events if event.HasField("workflow_task_started_event_attributes")]
    return bool(told) and steps[-1] > told[0]


async def test_warning_of_a_step_that_was_lost_leaves_its_grace_and_is_no_second_ready(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG)
    agent_id = await warned_in_a_lost_step(stage, monkeypatch)
    assert await kept(stage, agent_id)
    kinds = await stage.kinds(agent_id)
    assert kinds == ["requested", "queued", "admitted", "starting", "ready", "warning", "draining", "kept"], kinds
    await stage.stop(agent_id)
    await stage.nothing_left()
