"""The reaper: removes what nobody owns, both ways, and leaves everything else alone."""

import asyncio
from datetime import timedelta

import pytest
from pydantic import SecretStr

from activities import reaping
from activities.ports import Owner
from core.domain.lifecycle import AgentState
from core.errors import RuntimeRetryable
from core.runtime.base import AgentSpec, Observation, Usage
from tests.fixtures.orphans import orphaned
from tests.fixtures.refusals import refuse_signals
from tests.fixtures.stage import SetStage, Stage, until
from tests.workflows.test_draining import draining
from tests.workflows.test_giving_up import Deaf
from tests.workflows.test_silence import api_up, heard, restarted


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as too young."""
    monkeypatch.setattr(reaping, "_SETTLE", timedelta(0))


async def stray(stage: Stage, agent_id: str = "ag-stray", attempt: int = 1, user_id: str = "nobody") -> None:
    """Something that runs and that no row tells of."""
    await stage.runtime.create(
        AgentSpec(
            agent_id=agent_id,
            attempt=attempt,
            user_id=user_id,
            project_id="none",
            pool="default",
            template=stage.settings.template("default"),
            backend_url="http://127.0.0.1",
            token=SecretStr("t"),
        )
    )


async def there(stage: Stage) -> set[tuple[str, int]]:
    return {(seen.agent_id, seen.attempt) for seen in await stage.runtime.list()}


@pytest.mark.usefixtures("hasty")
async def test_object_without_a_life_is_removed_and_the_others_stay(stage: Stage) -> None:
    agent_id = await stage.started()
    await stray(stage)
    assert (await stage.reap()).objects == 1
    assert await there(stage) == {(agent_id, 1)}
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING


@pytest.mark.usefixtures("hasty")
async def test_life_that_ends_in_order_during_the_look_leaves_nothing_to_find(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id = await stage.started()
    looks = stage.runtime.list
    seen_first = await looks()

    async def ended_meanwhile() -> list[Observation]:
        monkeypatch.setattr(stage.runtime, "list", looks)
        await stage.stop(agent_id)
        await stage.until(agent_id, AgentState.TERMINATED)
        return seen_first

    monkeypatch.setattr(stage.runtime, "list", ended_meanwhile)
    assert (await stage.reap()).objects == 0


@pytest.mark.usefixtures("hasty")
async def test_object_that_will_not_go_holds_up_no_other(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaping, "_REMOVE_SECONDS", 0.5)
    for name in ("ag-a", "ag-b", "ag-c"):
        await stray(stage, name, user_id=name)
    delete = stage.runtime.delete

    async def unwilling(agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        if agent_id == "ag-a":
            raise RuntimeRetryable("its pod does not end")
        if agent_id == "ag-b":
            await asyncio.Event().wait()
        return await delete(agent_id, attempt, grace_seconds)

    monkeypatch.setattr(stage.runtime, "delete", unwilling)
    assert (await stage.reap()).objects == 1
    assert await there(stage) == {("ag-a", 1), ("ag-b", 1)}
    monkeypatch.setattr(stage.runtime, "delete", delete)
    assert (await stage.reap()).objects == 2


@pytest.mark.usefixtures("hasty")
async def test_object_of_an_attempt_that_is_over_is_removed(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stray(stage, agent_id, attempt=1)
    assert (await stage.reap()).objects == 1
    assert await there(stage) == {(agent_id, 2)}


async def test_young_things_are_left_alone(stage: Stage) -> None:
    agent_id = await stage.started()
    await orphaned(stage)
    await stray(stage)
    found = await stage.reap()
    assert (found.objects, found.rows) == (0, 0)
    assert await there(stage) == {(agent_id, 1), ("ag-stray", 1)}


@pytest.mark.usefixtures("hasty")
async def test_row_without_a_workflow_is_ended_with_what_it_had(stage: Stage) -> None:
    agent_id = await stage.started()
    await orphaned(stage)
    found = await stage.reap()
    assert (found.rows, found.objects) == (1, 0)
    ended = await stage.agent(agent_id)
    assert (ended.state, ended.reason) == (AgentState.TERMINATED, "workflow_gone")
    assert await there(stage) == set()


@pytest.mark.usefixtures("hasty")
async def test_row_that_only_waits_is_ended_although_its_runtime_is_away(set_stage: SetStage) -> None:
    stage = await set_stage(capacity=0)
    agent_id = await stage.queued()
    await orphaned(stage)
    Deaf(stage)
    assert (await stage.reap()).rows == 1
    ended = await stage.agent(agent_id)
    assert (ended.state, ended.reason) == (AgentState.CANCELLED, "workflow_gone")


@pytest.mark.usefixtures("hasty")
async def test_row_that_was_granted_while_it_was_looked_at_is_ended_when_its_runtime_says_gone(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1)
    holder = await stage.started("bob")
    agent_id = await stage.queued()
    await orphaned(stage)
    deaf, owner = Deaf(stage), stage.lives.owner

    async def granted_before(workflow_id: str) -> Owner | None:
        await stage.sql("UPDATE agents SET state = 'starting' WHERE agent_id = :a", a=agent_id)
        return await owner(workflow_id)

    monkeypatch.setattr(stage.lives, "owner", granted_before)
    found = await stage.reap()
    assert (found.rows, found.stays) == (0, 1)
    assert (await stage.agent(agent_id)).state is AgentState.STARTING
    monkeypatch.setattr(stage.lives, "owner", owner)
    await stage.sql("UPDATE agents SET state = 'queued' WHERE agent_id = :a", a=agent_id)
    deaf.hears()
    assert (await stage.reap()).rows == 1
    assert (await stage.agent(holder)).state is AgentState.RUNNING


@pytest.mark.usefixtures("hasty")
async def test_healthy_lives_in_every_state_are_left_alone(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600, "restart_backoff_seconds": 600, "grant_tick_seconds": 600})
    running = await stage.started("ann")
    draining, restarting = await stage.started("bob"), await stage.started("cat")
    await stage.stop(draining, "maintenance")
    await stage.fail(restarting)
    await stage.until(restarting, AgentState.RESTARTING)
    await stage.until(draining, AgentState.DRAINING)
    successor = await stage.queued("bob")
    before = {row["agent_id"]: row["state"] for row in await stage.sql("SELECT agent_id, state FROM agents")}
    for _ in range(3):
        found = await stage.reap()
        assert (found.objects, found.rows) == (0, 0)
    after = {row["agent_id"]: row["state"] for row in await stage.sql("SELECT agent_id, state FROM agents")}
    assert before == after
    assert set(before) == {running, draining, restarting, successor}


@pytest.mark.usefixtures("hasty")
async def test_successor_that_waits_on_after_the_hand_over_is_left_alone(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600, "grant_tick_seconds": 600}, capacity=1)
    first = await stage.started("ann")
    await stage.stop(first, "maintenance")
    await stage.until(first, AgentState.DRAINING)
    second = await stage.queued("ann")
    other = await stage.queued("bob", tier="enterprise")
    stop = asyncio.create_task(stage.stop(first))
    # At whatever moment of the hand-over the reaper looks.
    while (await stage.agent(other)).state is not AgentState.RUNNING:
        assert (await stage.reap()).rows == 0
    await stop
    for _ in range(3):
        assert (await stage.reap()).rows == 0
    assert (await stage.agent(second)).state is AgentState.QUEUED
    await stage.stop(other)
    await stage.until(second, AgentState.RUNNING)


@pytest.mark.usefixtures("hasty")
async def test_life_whose_worker_died_in_the_midst_of_the_hand_over_is_left_alone(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600})
    first = await draining(stage, "maintenance")
    second = await stage.queued()
    # The end is written, but the worker never gets to tell Temporal so.
    await stage.worker_down()
    await stage.sql("UPDATE agents SET state = 'terminated', ended_at = now() WHERE agent_id = :a", a=first)
    await stage.sql(
        "INSERT INTO events (user_id, cursor, agent_id, project_id, seq, at, kind, state)"
        " SELECT user_id, 1000, agent_id, project_id, event_seq + 1, now(), 'agent.terminated', 'terminated'"
        " FROM agents WHERE agent_id = :a",
        a=first,
    )
    await stage.workflow().signal("stop", {"agent_id": first, "grace_seconds": 0})
    assert (await stage.reap()).rows == 0
    assert (await stage.agent(second)).state is AgentState.QUEUED
    await stage.worker_up()
    await stage.until(second, AgentState.RUNNING)


@pytest.mark.usefixtures("hasty")
async def test_several_reapers_at_once_do_no_harm(stage: Stage) -> None:
    keeps = await stage.started("ann")
    gone = [await stage.started(f"user{n}") for n in range(3)]
    for n in range(3):
        await orphaned(stage, f"user{n}")
    await stray(stage)
    found = await asyncio.gather(*(stage.reap() for _ in range(4)))
    assert sum(one.rows for one in found) == 3
    for agent_id in gone:
        assert (await stage.kinds(agent_id))[-2:] == ["draining", "terminated"]
    assert await there(stage) == {(keeps, 1)}
    assert (await stage.agent(keeps)).state is AgentState.RUNNING


async def test_expired_subscription_drains_running_agents_and_withdraws_waiting_ones(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600, "grant_tick_seconds": 600}, capacity=1)
    running = await stage.started("ann", tier="basic")
    waiting = await stage.queued("ann", "bank", tier="basic")
    other = await stage.queued("bob")
    await stage.sql("UPDATE users SET subscription_active_until = now() - interval '1 day' WHERE user_id = 'ann'")
    assert (await stage.reap()).subscriptions == 2
    draining = await stage.until(running, AgentState.DRAINING)
    assert (draining.reason, draining.keepable) == ("subscription_expired", False)
    assert draining.deadline_at is not None
    await stage.until(waiting, AgentState.CANCELLED)
    # Told once more it changes nothing: the grace stands.
    assert (await stage.reap()).subscriptions == 0
    assert (await stage.agent(running)).state is AgentState.DRAINING
    assert (await stage.agent(other)).state is AgentState.QUEUED
    refused = await stage.start("ann", "third", tier="basic")
    assert refused.reason == "subscription_inactive"


@pytest.mark.usefixtures("hasty")
async def test_life_that_takes_no_signal_keeps_the_look_from_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, expired, silent = [await stage.started(name) for name in ("ann", "bob", "cat")]
    await stray(stage)
    await stage.sql("UPDATE users SET subscription_active_until = now() - interval '1 day' WHERE user_id <> 'cat'")
    await heard(stage, 130)
    await stage.sql("UPDATE channels SET last_seen_at = now() WHERE agent_id = :a", a=expired)
    await api_up(stage, up_seconds=1000)
    refuse_signals(monkeypatch, stage, "ann", "order_stop", "failed")
    found = await stage.reap()
    assert (found.channels_lost, found.subscriptions, found.objects) == (1, 1, 1)
    assert (await stage.until(expired, AgentState.TERMINATED)).reason == "subscription_expired"
    await until(lambda: restarted(stage, silent), "the silent one to be restarted")
    assert (await stage.agent(stuck)).state is AgentState.RUNNING


async def test_agents_of_a_former_member_are_stopped_although_nobody_could_be_told_at_once(stage: Stage) -> None:
    stranger, member = await stage.started("ann"), await stage.started("bob")
    await stage.sql("DELETE FROM memberships WHERE user_id = 'ann'")
    assert (await stage.reap()).former_members == 1
    assert (await stage.until(stranger, AgentState.TERMINATED)).reason == "user_left_project"
    assert (await stage.reap()).former_members == 0
    assert (await stage.agent(member)).state is AgentState.RUNNING


async def test_waiting_pool_without_a_workflow_is_woken(set_stage: SetStage) -> None:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1)
    first = await stage.started("ann")
    second = await stage.queued("bob")
    wake = stage.lives.wake_pool

    async def asleep(pool: str) -> bool:
        return True

    stage.lives.wake_pool = asleep  # type: ignore[method-assign]
    await stage.client.get_workflow_handle("pool/default").terminate("by hand")
    await stage.stop(first)
    await stage.until(first, AgentState.TERMINATED)
    stage.lives.wake_pool = wake  # type: ignore[method-assign]
    assert (await stage.reap()).pools_woken == 1
    await stage.until(second, AgentState.RUNNING)


async def test_reaper_of_the_schedule_looks_every_interval(stage: Stage) -> None:
    from temporal import schedules

    await schedules.ensure(stage.client, reap_seconds=60, pressure_seconds=60)
    await schedules.ensure(stage.client, reap_seconds=1, pressure_seconds=60)
    handle = stage.client.get_schedule_handle(schedules.REAPER_SCHEDULE)

    async def looked() -> bool:
        return (await handle.describe()).info.num_actions >= 2

    await until(looked, "the schedule to have run twice")


async def test_reaper_that_an_operator_paused_stays_paused_when_a_worker_begins(stage: Stage) -> None:
    from temporal import schedules

    await schedules.ensure(stage.client, reap_seconds=60, pressure_seconds=60)
    handle = stage.client.get_schedule_handle(schedules.REAPER_SCHEDULE)
    await handle.pause(note="the database is restored")
    await schedules.ensure(stage.client, reap_seconds=90, pressure_seconds=60)
    there = (await handle.describe()).schedule
    assert (there.state.paused, there.state.note) == (True, "the database is restored")
    assert [each.every.total_seconds() for each in there.spec.intervals] == [90]


async def test_what_ended_long_ago_is_forgotten_with_all_that_is_its_own(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "_BATCH", 2)
    lives: list[str] = []
    for _ in range(4):
        agent_id = await stage.started()
        await stage.stop(agent_id)
        await stage.until(agent_id, AgentState.TERMINATED)
        await stage.until_closed()
        lives.append(agent_id)
    *old, recent = lives
    living = await stage.started()
    await stage.start("ann", "bank")  # refused: a free user has one
    await stage.sql(
        "INSERT INTO commands (agent_id, command_id, attempt, name, parameters, deadline_at)"
        " SELECT agent_id, 'shot', 1, 'screenshot', '{}', now() FROM agents"
    )
    await stage.sql(
        "INSERT INTO artefacts (artefact_id, agent_id, command_id, user_id, content_type, bytes)"
        " SELECT 'art-' || agent_id, agent_id, 'shot', 'ann', 'image/png', 1 FROM agents"
    )
    await stage.sql("INSERT INTO artefact_chunks SELECT artefact_id, 0, 'x' FROM artefacts")
    await stage.sql("UPDATE agents SET ended_at = now() - interval '31 days' WHERE agent_id = ANY(:old)", old=old)
    await stage.sql("UPDATE agents SET created_at = now() - interval '90 days'")
    await stage.sql("UPDATE events SET at = now() - interval '31 days' WHERE agent_id IS NULL")
    await stage.reap()
    for table in ("agents", "events", "commands", "artefacts"):
        left = await stage.sql(f"SELECT DISTINCT agent_id FROM {table}")  # noqa: S608
        assert {row["agent_id"] for row in left} == {recent, living}, table
    assert len(await stage.sql("SELECT 1 FROM artefact_chunks")) == 2
    assert (await stage.agent(living)).state is AgentState.RUNNING
