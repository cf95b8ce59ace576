"""A runtime that does not answer or does not let go, and an operator who gives up on it; resets of work under way."""

import asyncio
from collections.abc import Callable

import pytest

from core.domain.lifecycle import AgentState
from core.domain.orders import AbandonOrder, StartOutcome
from core.errors import RuntimeFault, RuntimePermanent, RuntimeRetryable
from core.runtime.base import AgentSpec, Created, Usage
from tests.fakes.stubborn import Stubborn
from tests.fixtures.orphans import orphaned
from tests.fixtures.stage import SetStage, Stage, until
from workflows.removal import UNSEEN

SLOW = {"grace_seconds": 600, "ready_deadline_seconds": 600, "restart_backoff_seconds": 600, "shutdown_seconds": 600}
HELD = [AgentState.STARTING, AgentState.RUNNING, AgentState.RESTARTING, AgentState.DRAINING]


class Deaf:
    """A runtime of which nothing can be removed until it `hears` again; `asked` counts the tries."""

    def __init__(self, stage: Stage, fault: Callable[[str], RuntimeFault] = RuntimeRetryable) -> None:
        self._runtime, self._delete, self._fault = stage.runtime, stage.runtime.delete, fault
        self.asked = 0
        stage.runtime.delete = self._refuse  # type: ignore[method-assign]

    async def _refuse(self, agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        self.asked += 1
        raise self._fault("no cluster answers")

    def hears(self) -> None:
        self._runtime.delete = self._delete  # type: ignore[method-assign]

    async def was_asked(self) -> None:
        async def asked() -> bool:
            return self.asked > 0

        await until(asked, "the runtime to be asked")


async def in_state(stage: Stage, state: AgentState, **who: str) -> str:
    if state is AgentState.STARTING:
        stage.runtime._settings = stage.settings.memory.model_copy(update={"start_seconds": 600})
        agent_id = (await stage.start(**who)).agent_id or ""
        await stage.exists(agent_id)
        return agent_id
    agent_id = await stage.started(**who)
    if state is AgentState.RESTARTING:
        await stage.fail(agent_id)
    if state is AgentState.DRAINING:
        await stage.stop(agent_id, "maintenance")
    await stage.until(agent_id, state)
    return agent_id


async def abandon(stage: Stage, agent_id: str) -> None:
    agent = await stage.agent(agent_id)
    await stage.lives.abandon(agent, AbandonOrder(detail="it burnt"), stage.settings.timings)


@pytest.mark.parametrize("carried", [True, False], ids=["carried", "of no workflow"])
async def test_operator_ends_an_agent_in_any_state_that_its_runtime_does_not_let_go_of(
    set_stage: SetStage, carried: bool
) -> None:
    stage = await set_stage(SLOW)
    deaf = Deaf(stage)
    # The one that starts comes last: from then on nothing becomes ready.
    ids = {state: await in_state(stage, state, user_id=state.value) for state in reversed(HELD)}
    for state, agent_id in ids.items():
        if not carried:
            await orphaned(stage, state.value)
        await abandon(stage, agent_id)
    for state, agent_id in ids.items():
        ended = await stage.until(agent_id, AgentState.TERMINATED)
        await stage.until_closed(state.value)
        assert ended.reason == ("maintenance" if state is AgentState.DRAINING else "operator")
        told = (await stage.events(agent_id))[-1].detail["detail"]
        assert told.endswith(UNSEEN), state
    # Their slots are free, and what is left of them is removed when the runtime answers.
    deaf.hears()
    assert {seen.agent_id for seen in await stage.runtime.list()} == set(ids.values())


async def test_operator_gives_up_on_a_removal_that_is_tried_in_vain(set_stage: SetStage) -> None:
    stage = await set_stage()
    agent_id = await stage.started()
    deaf = Deaf(stage)
    await stage.stop(agent_id)
    await deaf.was_asked()
    await stage.stop(agent_id, "operator", force=True)
    assert (await stage.agent(agent_id)).state is AgentState.DRAINING, "force alone gives nobody's slot away"
    await abandon(stage, agent_id)
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == "user_requested"


async def test_order_to_give_up_is_not_forgotten_by_a_life_that_goes_on_in_a_new_run(stage: Stage) -> None:
    agent_id = await stage.started()
    run_id = (await stage.workflow().describe()).run_id
    Deaf(stage)
    await stage.worker_down()
    await stage.workflow().signal("hand_on")
    await abandon(stage, agent_id)
    await stage.worker_up()
    await stage.until(agent_id, AgentState.TERMINATED)
    assert (await stage.events(agent_id))[-1].detail["detail"].endswith(UNSEEN)
    assert (await stage.workflow().describe()).run_id != run_id


async def test_what_the_runtime_does_let_go_of_is_not_called_given_up(stage: Stage) -> None:
    agent_id = await stage.started()
    await abandon(stage, agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()
    assert (await stage.events(agent_id))[-1].detail["detail"] == "it burnt"


@pytest.mark.parametrize("carried", [True, False], ids=["carried", "of no workflow"])
async def test_one_that_waits_is_given_up_by_leaving_the_line(set_stage: SetStage, carried: bool) -> None:
    stage = await set_stage(capacity=0)
    agent_id = await stage.queued()
    if not carried:
        await orphaned(stage)
    await abandon(stage, agent_id)
    assert (await stage.until(agent_id, AgentState.CANCELLED)).reason == "operator"
    await stage.nothing_left()


async def test_start_that_clears_up_behind_a_terminated_run_goes_on_when_that_is_given_up(stage: Stage) -> None:
    first = await stage.started()
    await orphaned(stage)
    deaf = Deaf(stage)
    starting = asyncio.create_task(stage.insist(stage.request()))
    await deaf.was_asked()
    await abandon(stage, first)
    await stage.until(first, AgentState.TERMINATED)
    assert (await stage.events(first))[-1].detail["detail"] == UNSEEN
    deaf.hears()
    # The reaper's work: the profile is free again.
    await stage.runtime.delete(first, 1)
    answer = await starting
    assert answer.outcome in (StartOutcome.CREATED, StartOutcome.EXISTING)
    second = answer.agent_id or ""
    await stage.until(second, AgentState.RUNNING)
    await stage.stop(second)
    await stage.nothing_left()


async def test_start_behind_a_terminated_run_that_only_waited_does_not_wait_for_the_runtime(
    set_stage: SetStage,
) -> None:
    stage = await set_stage(capacity=0)
    first = await stage.queued()
    await orphaned(stage)
    Deaf(stage)
    second = await stage.queued()
    assert second != first
    ended = await stage.agent(first)
    assert (ended.state, ended.reason) == (AgentState.CANCELLED, "workflow_gone")
    await stage.stop(second)
    await stage.nothing_left()


async def test_runtime_that_answers_in_time_after_all_is_not_called_given_up(stage: Stage) -> None:
    agent_id, deaf = await stage.started(), Deaf(stage)
    # By force, so that it is this very removal that is given up.
    await stage.stop(agent_id, "operator", force=True)
    await deaf.was_asked()
    await abandon(stage, agent_id)
    deaf.hears()
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()
    assert UNSEEN not in (await stage.events(agent_id))[-1].detail.get("detail", "")


async def test_removal_that_the_runtime_refuses_for_good_is_tried_until_it_does_not(stage: Stage) -> None:
    agent_id = await stage.started()
    deaf = Deaf(stage, RuntimePermanent)
    await stage.stop(agent_id)
    await deaf.was_asked()
    assert (await stage.agent(agent_id)).state is AgentState.DRAINING
    deaf.hears()
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == "user_requested"
    await stage.nothing_left()


RESET = ("workflow", "reset", "--type", "LastWorkflowTask", "--reason", "by hand", "--workflow-id")


async def decided_since(stage: Stage, agent_id: str) -> None:
    """One more decision, so that a reset to it finds the activity under way."""
    await stage.lives.keep(await stage.agent(agent_id))


async def test_run_that_was_reset_while_its_agent_saves_ends_it_as_it_was_told(set_stage: SetStage) -> None:
    stage = await set_stage({"shutdown_seconds": 600})
    agent_id, stubborn = await stage.started(), Stubborn(stage.runtime)
    await stage.stop(agent_id, "maintenance", grace_seconds=0)
    await asyncio.wait_for(stubborn.asked.wait(), 10)
    await decided_since(stage, agent_id)
    stubborn.asked.clear()
    await stage.temporal(*RESET, stage.workflow().id)
    await asyncio.wait_for(stubborn.asked.wait(), 10)
    await stage.stop(agent_id, "operator", force=True)
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == "maintenance"
    await stage.nothing_left()


async def test_run_that_was_reset_while_its_agent_is_made_spends_no_restart(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, asked, go_on = stage.runtime.create, asyncio.Event(), asyncio.Event()

    async def slow(spec: AgentSpec) -> Created:
        asked.set()
        await go_on.wait()
        return await create(spec)

    monkeypatch.setattr(stage.runtime, "create", slow)
    agent_id = (await stage.start()).agent_id or ""
    await asyncio.wait_for(asked.wait(), 10)
    await decided_since(stage, agent_id)
    await stage.temporal(*RESET, stage.workflow().id)
    go_on.set()
    agent = await stage.until(agent_id, AgentState.RUNNING)
    assert (agent.attempt, agent.restart_count) == (1, 0)
    await stage.stop(agent_id)
    await stage.nothing_left()
