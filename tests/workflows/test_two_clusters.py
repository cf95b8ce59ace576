"""Pools of two clusters, which share their users' quota."""

from core.domain.lifecycle import AgentState
from core.domain.orders import StartOutcome
from core.domain.templates import Pool, Template
from tests.fixtures.stage import SetStage

# A pool that is not told never looks again.
NEVER = {"grant_tick_seconds": 3600}


async def test_agent_that_waits_for_its_users_other_one_to_end_in_another_cluster_starts_when_that_is_gone(
    set_stage: SetStage,
) -> None:
    far = Pool(runtime="memory", cluster="far", template="other", capacity=10)
    stage = await set_stage(NEVER, pools={"far": far}, templates={"other": Template()})
    here = await stage.started("ann", "a")
    await stage.stop(here, "maintenance", grace_seconds=600)
    await stage.until(here, AgentState.DRAINING)
    answer = await stage.start("ann", "b", template="other", pool="far")
    assert (answer.outcome, answer.reason) == (StartOutcome.QUEUED, "previous_ending")
    await stage.stop(here, force=True)
    await stage.until(answer.agent_id or "", AgentState.RUNNING)
