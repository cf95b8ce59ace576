"""A restart for which there is no room any more: it waits for one, before everybody who never had one."""

import pytest

from activities.contracts import Rejoined
from activities.lives import life_of
from activities.pools import PoolActivities
from core.domain.lifecycle import AgentState
from core.domain.recovery import FailureKind
from core.runtime.base import Usage
from tests.fixtures.stage import SetStage, Stage, until
from tests.workflows.test_queue import position

# The machines are looked at often in the pause before a restart.
BRIEF = {"restart_backoff_seconds": 1, "snapshot_seconds": 0.1, "grant_tick_seconds": 1}


def room(stage: Stage, agents: int) -> None:
    """The machines have room for so many from now on; those beyond that, which are there, stay."""
    stage.runtime._settings = stage.runtime._settings.model_copy(update={"capacity": agents})


async def with_room(stage: Stage, agents: int) -> None:
    async def measured() -> bool:
        return await stage.sql("SELECT 1 FROM clusters WHERE total = :n", n=agents) != []

    room(stage, agents)
    await until(measured, f"room for {agents} to be seen")


async def crowded_out(stage: Stage) -> tuple[str, str, str]:
    """Ann's agent crashed when there was room for one less: hers, Bob's that runs, and Cat's that never had a slot."""
    await with_room(stage, 2)
    ann, bob = await stage.started("ann"), await stage.started("bob")
    cat = await stage.queued("cat", tier="enterprise")
    room(stage, 1)
    await stage.fail(ann, FailureKind.HOST_LOST)
    assert (await stage.until(ann, AgentState.QUEUED)).reason == "no_suitable_node"
    return ann, bob, cat


async def test_restart_without_room_waits_before_all_others_and_goes_on_when_there_is_room(set_stage: SetStage) -> None:
    stage = await set_stage(BRIEF, capacity=None)
    ann, bob, cat = await crowded_out(stage)
    assert (await position(stage, ann), await position(stage, cat)) == (1, 2)
    assert (await stage.agent(bob)).state is AgentState.RUNNING
    assert (await stage.start("ann")).agent_id == ann, "who asks again is told of the agent that waits"
    await stage.stop(bob)
    back = await stage.until(ann, AgentState.RUNNING)
    assert (back.attempt, back.restart_count) == (2, 0)
    assert (await stage.agent(cat)).state is AgentState.QUEUED
    kinds = await stage.kinds(ann)
    assert kinds[kinds.index("restarting") :] == ["restarting", "queued", "admitted", "starting", "ready"]
    await stage.stop(ann)
    await stage.until(cat, AgentState.RUNNING)
    await stage.stop(cat)
    await stage.nothing_left()


async def test_restart_that_waits_can_be_taken_back_and_what_it_used_is_counted(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage(BRIEF, capacity=None)
    delete = stage.runtime.delete

    async def measured(agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        await delete(agent_id, attempt, grace_seconds)
        return Usage(cpu_seconds=40)

    monkeypatch.setattr(stage.runtime, "delete", measured)
    ann, bob, cat = await crowded_out(stage)
    await stage.stop(ann)
    await stage.until(ann, AgentState.CANCELLED)
    told = (await stage.events(ann))[-1].detail["usage"]
    assert told["seconds"] > 0
    assert told["cpuSeconds"] == 40
    await stage.stop(bob)
    await stage.stop(cat)
    await stage.nothing_left()


async def test_restart_with_room_waits_for_nobody_though_others_wait_for_more(set_stage: SetStage) -> None:
    stage = await set_stage(BRIEF, capacity=None)
    await with_room(stage, 1)
    ann, bob = await stage.started("ann"), await stage.queued("bob")
    await stage.fail(ann)
    await stage.until(ann, AgentState.RESTARTING)
    await stage.until(ann, AgentState.RUNNING)
    assert "queued" not in (await stage.kinds(ann))[3:]
    assert (await stage.agent(bob)).state is AgentState.QUEUED


async def test_slot_given_back_twice_is_given_back_once(set_stage: SetStage) -> None:
    stage = await set_stage(BRIEF, capacity=None)
    ann, _, _ = await crowded_out(stage)
    activities = PoolActivities(stage.db, stage.settings, stage.lives)
    failed = life_of(await stage.agent(ann)).model_copy(update={"attempt": 1})
    again = await activities.rejoin(failed)
    assert again == Rejoined(applied=False, state=AgentState.QUEUED, attempt=2, waits_for="no_suitable_node")
    assert (await stage.kinds(ann)).count("queued") == 2
