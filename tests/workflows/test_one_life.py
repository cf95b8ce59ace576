"""One life on real parts, from the request to the clean end."""

from core.domain.lifecycle import AgentState
from core.domain.orders import StartOutcome
from tests.fixtures.stage import Stage


async def test_a_requested_agent_runs_and_a_stopped_one_leaves_nothing(stage: Stage) -> None:
    answer = await stage.start()
    assert answer.outcome is StartOutcome.CREATED
    assert answer.agent_id is not None
    await stage.until(answer.agent_id, AgentState.RUNNING)
    await stage.stop(answer.agent_id)
    ended = await stage.until(answer.agent_id, AgentState.TERMINATED)
    assert ended.reason == "user_requested"
    assert await stage.kinds(answer.agent_id) == [
        "requested",
        "queued",
        "admitted",
        "starting",
        "ready",
        "draining",
        "terminated",
    ]
    await stage.nothing_left()


async def test_a_second_start_of_a_living_agent_returns_that_agent(stage: Stage) -> None:
    agent_id = await stage.started()
    again = await stage.start()
    assert again.outcome is StartOutcome.EXISTING
    assert again.agent_id == agent_id
