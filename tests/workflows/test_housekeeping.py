"""What the reaper's look forgets, each thing after the time that it is kept."""

import pytest

from core.domain.lifecycle import AgentState
from core.settings import Retention
from tests.fixtures.stage import SetStage, Stage


async def ended(stage: Stage, user_id: str, days_ago: float) -> str:
    """Id of an agent that was stopped so long ago."""
    agent_id = await stage.started(user_id)
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.until_closed(user_id)
    await stage.sql(
        "UPDATE agents SET ended_at = now() - make_interval(hours => :hours) WHERE agent_id = :a",
        hours=int(days_ago * 24),
        a=agent_id,
    )
    return agent_id


async def settled(stage: Stage, notice_id: str, days_ago: float) -> None:
    """A notice that was sent so long ago."""
    await stage.sql(
        "INSERT INTO notices (notice_id, channel, kind, user_id, project_id, event, state, ended_at) VALUES"
        " (:n, 'webhook', 'agent.failed', 'ann', 'shop', '{}', 'sent', now() - make_interval(hours => :hours))",
        n=notice_id,
        hours=int(days_ago * 24),
    )


async def left(stage: Stage, table: str, name: str) -> list[str]:
    return [row[name] for row in await stage.sql(f"SELECT {name} FROM {table} ORDER BY {name}")]  # noqa: S608


async def test_agent_is_forgotten_after_the_days_of_the_settings(set_stage: SetStage) -> None:
    stage = await set_stage(retention=Retention(agent_days=12))
    await ended(stage, "ann", days_ago=13)
    recent = await ended(stage, "bob", days_ago=11)
    await stage.reap()
    assert await left(stage, "agents", "agent_id") == [recent]


@pytest.mark.parametrize(("notice_days", "agent_days"), [(2, 12), (12, 2)])
async def test_settled_notice_is_forgotten_after_the_days_of_the_settings_or_those_of_an_agent_if_fewer(
    set_stage: SetStage, notice_days: float, agent_days: float
) -> None:
    stage = await set_stage(retention=Retention(notice_days=notice_days, agent_days=agent_days))
    await settled(stage, "no-old", days_ago=3)
    await settled(stage, "no-recent", days_ago=1)
    await stage.reap()
    assert await left(stage, "notices", "notice_id") == ["no-recent"]
