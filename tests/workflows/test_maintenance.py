"""A pool or a machine that is to be serviced: whoever lives there is warned in time, everybody else lives on."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from core.domain import timings
from core.domain.lifecycle import AgentState
from core.domain.orders import MaintenanceOrder
from core.domain.templates import Pool, Simulation, Template
from core.errors import RuntimeRetryable
from core.ids import maintenance_workflow_id
from core.runtime.base import Observation
from core.settings import Memory
from tests.fixtures.refusals import refuse_signals
from tests.fixtures.stage import SetStage, Stage

LONG = {"grace_seconds": 600, "grant_tick_seconds": 600, "idle_seconds": 36000}


async def order(stage: Stage, name: str = "mt-1", **fields: Any) -> int | None:
    """As an administrator orders it; how many were warned where that is known at once."""
    asked = MaintenanceOrder(**{"warn_at": datetime.now(UTC), "detail": "a new kernel", **fields})
    return await stage.lives.maintain(name, asked)


def maintenance_run(stage: Stage, name: str = "mt-1") -> WorkflowHandle[Any, Any]:
    return stage.client.get_workflow_handle(maintenance_workflow_id(name))


async def over(stage: Stage, name: str = "mt-1") -> int:
    """How many it told to go, once it is done."""
    told: dict[str, int] = await maintenance_run(stage, name).result()
    return told["agents"]


async def node_of(stage: Stage, agent_id: str) -> str:
    return next(seen.node for seen in await stage.runtime.list() if seen.agent_id == agent_id)


async def test_agents_of_the_pool_are_warned_with_the_reason_and_who_waits_or_lives_elsewhere_stays(
    set_stage: SetStage,
) -> None:
    side = Pool(runtime="memory", template="other", capacity=10)
    stage = await set_stage(LONG, capacity=1, pools={"side": side}, templates={"other": Template()})
    here = await stage.started("ann")
    there = await stage.started("bob", template="other", pool="side")
    waiting = await stage.queued("cat")
    assert await order(stage, pool="default") == 1
    assert await over(stage) == 1
    warned = await stage.until(here, AgentState.DRAINING)
    assert (warned.reason, warned.keepable) == ("maintenance", False)
    assert warned.deadline_at is not None
    drained = next(event for event in await stage.events(here) if event.kind == "agent.draining")
    assert (drained.reason, drained.detail["detail"]) == ("maintenance", "a new kernel")
    assert (await stage.agent(there)).state is AgentState.RUNNING
    assert (await stage.agent(waiting)).state is AgentState.QUEUED
    # Ordered once more, the grace stands.
    await order(stage, "mt-2", pool="default")
    assert await over(stage, "mt-2") == 1
    assert await stage.agent(here) == warned


async def test_agents_on_the_machine_go_and_those_on_the_others_stay(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG, memory=Memory(start_seconds=0.02, stop_seconds=0.02, nodes=2))
    lives = [await stage.started(f"user{n}") for n in range(4)]
    nodes = [await node_of(stage, agent_id) for agent_id in lives]
    assert set(nodes) == {"node-1", "node-2"}
    listed, failures = stage.runtime.list, iter([True])

    async def silent_at_first() -> list[Observation]:
        if next(failures, False):
            raise RuntimeRetryable("the cluster does not answer")
        return await listed()

    monkeypatch.setattr(stage.runtime, "list", silent_at_first)
    await order(stage, node="node-2")
    assert await over(stage) == 2
    for agent_id, node in zip(lives, nodes, strict=True):
        if node == "node-2":
            assert (await stage.until(agent_id, AgentState.DRAINING)).reason == "maintenance"
        else:
            assert (await stage.agent(agent_id)).state is AgentState.RUNNING


async def test_newcomer_on_a_machine_that_is_back_is_not_warned_for_a_runtime_that_was_silent(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG, memory=Memory(start_seconds=0.02, stop_seconds=0.02, nodes=1))
    lived_there = await stage.started("ann")
    machine, listed = await node_of(stage, lived_there), stage.runtime.list
    newcomers: list[str] = []

    async def silent_at_first() -> list[Observation]:
        if not newcomers:
            newcomers.append(await stage.started("bob"))
            raise RuntimeRetryable("the cluster does not answer")
        return await listed()

    monkeypatch.setattr(stage.runtime, "list", silent_at_first)
    await order(stage, node=machine)
    assert await over(stage) == 1
    assert await node_of(stage, newcomers[0]) == machine
    assert (await stage.until(lived_there, AgentState.DRAINING)).reason == "maintenance"
    assert (await stage.agent(newcomers[0])).state is AgentState.RUNNING


async def test_maintenance_to_come_warns_when_it_is_time_whatever_is_said_to_it_before(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 2, "idle_seconds": 36000})
    agent_id = await stage.started()
    warn_at = datetime.now(UTC) + timedelta(seconds=3)
    starts_at = warn_at + timedelta(seconds=60)
    await order(stage, pool="default", warn_at=warn_at, starts_at=starts_at)
    await maintenance_run(stage).signal("hand_on")
    assert await over(stage) == 1
    warned = await stage.until(agent_id, AgentState.DRAINING)
    drained = next(event for event in await stage.events(agent_id) if event.kind == "agent.draining")
    assert drained.at >= warn_at
    # Warned for longer than its own grace, so that it has all the time there is before it has to leave.
    assert warned.deadline_at is not None
    leaves_at = starts_at - timedelta(seconds=stage.settings.timings.shutdown_seconds + 10)
    assert abs(warned.deadline_at - leaves_at) < timedelta(seconds=1)


async def test_agent_that_will_not_leave_is_gone_when_the_maintenance_begins(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "REMOVAL_SECONDS", 1.0, raising=False)
    stays = {"default": Template(simulation=Simulation(ignores_shutdown=True))}
    stage = await set_stage({"grace_seconds": 0.5, "shutdown_seconds": 1}, templates=stays)
    agent_id = await stage.started()
    starts_at = datetime.now(UTC) + timedelta(seconds=4)
    await order(stage, pool="default", starts_at=starts_at)
    ended = await stage.until(agent_id, AgentState.TERMINATED)
    assert ended.ended_at is not None
    assert starts_at - timedelta(seconds=1.5) < ended.ended_at < starts_at


async def test_life_that_takes_no_signal_keeps_nobody_else_on_the_machine(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(LONG)
    stuck, other = await stage.started("ann"), await stage.started("bob")
    refuse_signals(monkeypatch, stage, "ann", "order_stop")
    await order(stage, pool="default")
    assert await over(stage) == 1
    await stage.until(other, AgentState.DRAINING)
    assert (await stage.agent(stuck)).state is AgentState.RUNNING
