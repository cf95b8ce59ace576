"""The flows whose histories are checked in. Run by `tests.replay.record`, never as tests."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from core.domain.lifecycle import AgentState
from core.domain.notices import Channel, Patience
from core.domain.orders import AbandonOrder, MaintenanceOrder
from core.domain.sizes import Size
from core.domain.templates import Simulation, Template
from core.domain.timings import Timings
from tests.fakes.stubborn import Stubborn
from tests.fixtures.bookings import begin, booked, closed, forward, full_queue, row, run_of
from tests.fixtures.receivers import Backend
from tests.fixtures.stage import SetStage, Stage, until
from tests.replay.keeping import keep
from tests.workflows.test_forgotten_starts import forgotten
from tests.workflows.test_giving_up import Deaf
from tests.workflows.test_pressure import measured
from tests.workflows.test_rejoining import crowded_out
from workflows.maintenance import Maintenance
from workflows.notices import Notices, NoticesInput
from workflows.options import CONTROL_QUEUE
from workflows.pressure import PressureWatch
from workflows.reaper import Reaper

LONG = {"grace_seconds": 600, "grant_tick_seconds": 600}


async def this_run(stage: Stage) -> str | None:
    return (await stage.workflow().describe()).run_id


async def test_stopped(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.start()
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "stopped")


async def test_warned_kept_and_gone(set_stage: SetStage) -> None:
    stage = await set_stage(Timings())
    agent_id = await stage.started()
    await stage.sql("UPDATE agents SET last_activity_at = last_activity_at + interval '5 minutes'")
    await stage.forward(36 * 60)
    await stage.lives.keep(await stage.until(agent_id, AgentState.DRAINING))
    await stage.stop(agent_id, "maintenance")
    await stage.until(agent_id, AgentState.DRAINING)
    await stage.forward(130)
    await stage.until_closed()
    await keep(stage, "warned_kept_and_gone")


async def test_queued_and_admitted(set_stage: SetStage) -> None:
    stage = await set_stage(LONG, capacity=1)
    other = await stage.started("bob")
    agent_id = await stage.queued()
    await stage.stop(other)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "queued_and_admitted")
    await keep(stage, "pool_queue", workflow_id="pool/default")


async def test_queued_and_cancelled(set_stage: SetStage) -> None:
    stage = await set_stage(LONG, capacity=0)
    agent_id = await stage.queued()
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "queued_and_cancelled")


async def test_rejoined_the_line(set_stage: SetStage) -> None:
    stage = await set_stage({**LONG, "snapshot_seconds": 0.1, "grant_tick_seconds": 1}, capacity=None)
    ann, bob, cat = await crowded_out(stage)
    await stage.stop(bob)
    await stage.until(ann, AgentState.RUNNING)
    await stage.stop(ann)
    await stage.until_closed()
    await keep(stage, "rejoined_the_line")
    await stage.stop(cat)


async def test_crashed_until_failed(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.fail_for_good(agent_id)
    await keep(stage, "crashed_until_failed")


async def test_restarted_by_its_user(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.lives.restart(await stage.agent(agent_id))
    await stage.until(agent_id, AgentState.RESTARTING, AgentState.STARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "restarted_by_its_user")


async def test_stopped_while_starting(stage: Stage) -> None:
    stage.runtime._settings = stage.settings.memory.model_copy(update={"start_seconds": 600})
    agent_id = (await stage.start()).agent_id or ""
    await stage.exists(agent_id)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "stopped_while_starting")


async def test_hastened_and_forced(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600, "shutdown_seconds": 600})
    agent_id, stubborn = await stage.started(), Stubborn(stage.runtime)
    await stage.stop(agent_id, "inactivity")
    await stage.until(agent_id, AgentState.DRAINING)
    await stage.stop(agent_id)
    await asyncio.wait_for(stubborn.asked.wait(), 10)
    await stage.stop(agent_id, "operator", force=True)
    await stage.until_closed()
    await keep(stage, "hastened_and_forced")


async def test_given_up_after_a_last_chance(stage: Stage) -> None:
    agent_id = await stage.started()
    deaf = Deaf(stage)
    await stage.stop(agent_id, "operator", force=True)
    await deaf.was_asked()
    await stage.lives.abandon(await stage.agent(agent_id), AbandonOrder(detail="it burnt"), stage.settings.timings)
    await stage.until(agent_id, AgentState.TERMINATED)
    await keep(stage, "given_up_after_a_last_chance")


async def test_cancelled_by_an_operator(stage: Stage) -> None:
    await stage.started()
    await stage.workflow().cancel()
    await stage.until_closed()
    await keep(stage, "cancelled_by_an_operator")


async def test_handed_over(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first = await stage.started()
    await stage.stop(first, "maintenance")
    await stage.until(first, AgentState.DRAINING)
    withdrawn = await stage.queued()
    await stage.stop(withdrawn)
    await stage.until(withdrawn, AgentState.CANCELLED)
    second, run_id = await stage.queued(), await this_run(stage)
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    await stage.stop(second)
    await stage.until_closed()
    await keep(stage, "handed_over_before", run_id=run_id)
    await keep(stage, "handed_over_after")


async def test_taken_up(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    first, run_id = await stage.started(), await this_run(stage)
    await stage.stop(first, "maintenance")
    await stage.until(first, AgentState.DRAINING)
    second = await forgotten(stage, first)
    await stage.stop(first)
    await stage.until(second, AgentState.RUNNING)
    await stage.stop(second)
    await stage.until_closed()
    await keep(stage, "taken_up", run_id=run_id)


async def test_handed_on(set_stage: SetStage) -> None:
    stage = await set_stage(history_limit=30)
    agent_id = await stage.started()
    run_id = await this_run(stage)

    async def another() -> bool:
        await stage.fail(agent_id, attempt=7)
        return await this_run(stage) != run_id

    await until(another, "the run to be handed on")
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "handed_on_before", run_id=run_id)
    await keep(stage, "handed_on_after")


@pytest.mark.parametrize("point", ["first_decision", "first_attempt"])
async def test_reset_to_its(stage: Stage, point: str) -> None:
    agent_id, decided = await stage.started(), list[int]()

    async def idle() -> bool:
        events = (await stage.workflow().fetch_history()).events
        tasks = [event.event_id for event in events if event.HasField("workflow_task_completed_event_attributes")]
        decided[:] = tasks
        return tasks[-1] == events[-1].event_id

    # A task that decides nothing: what is reset to it is a run that has made its first attempt run and knows no more.
    await stage.workflow().signal("failed")
    await until(idle, "its run to be idle")
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    back_to = str(decided[0] if point == "first_decision" else decided[-1])
    of = ("--workflow-id", stage.workflow().id, "--event-id", back_to)
    # What it heard since is not told again: it is to learn of its second attempt by a report alone.
    await stage.temporal("workflow", "reset", *of, "--reason", "by hand", "--reapply-exclude", "Signal")
    await stage.fail(agent_id, attempt=2)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.stop(agent_id)
    await stage.until_closed()
    if point == "first_decision":
        await keep(stage, "reset_to_its_first_decision")
    else:
        await keep(stage, "reset_to_its_first_attempt")


async def test_never_made(set_stage: SetStage) -> None:
    refused = {"default": Template(simulation=Simulation(fail_create=1000))}
    stage = await set_stage({"ready_deadline_seconds": 1}, templates=refused)
    await stage.start()
    await stage.until_closed()
    await keep(stage, "never_made")


async def test_never_usable(set_stage: SetStage) -> None:
    mute = {"default": Template(simulation=Simulation(never_ready=True))}
    stage = await set_stage({"ready_deadline_seconds": 1}, templates=mute)
    await stage.start()
    await stage.until_closed()
    await keep(stage, "never_usable")


async def test_lived_its_longest(set_stage: SetStage) -> None:
    stage = await set_stage({"max_life_seconds": 60, "grace_seconds": 0})
    await stage.started()
    await stage.forward(61)
    await stage.until_closed()
    await keep(stage, "lived_its_longest")


async def test_pool_queue_handed_on(set_stage: SetStage) -> None:
    stage = await set_stage({"grant_tick_seconds": 0.3}, capacity=0, history_limit=30)
    await stage.queued()
    pool = stage.client.get_workflow_handle("pool/default")
    run_id = (await pool.describe()).run_id
    for word in ("released", "enqueued"):
        await pool.signal(word)
    await until(partial(_another, pool, run_id), "the queue's run to be handed on")
    await keep(stage, "pool_queue_handed_on", workflow_id=pool.id, run_id=run_id)


async def test_handed_on_by_word(set_stage: SetStage, backend: Backend) -> None:
    stage = await set_stage(LONG, webhook=backend.settings())
    agent_id = await stage.started()
    await stage.lives.wake_pool("default")
    await tried(stage, "state = 'sent'")
    ids = {"": stage.workflow().id, "pool_queue_": "pool/default", "notices_": "notices/webhook"}
    runs = {name: (await stage.client.get_workflow_handle(id_).describe()).run_id for name, id_ in ids.items()}
    for name, id_ in ids.items():
        handle = stage.client.get_workflow_handle(id_)
        await handle.signal("hand_on")
        await until(partial(_another, handle, runs[name]), f"another run of {id_}")
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "handed_on_by_word", run_id=runs[""])
    await keep(stage, "handed_on_by_word_after")
    await keep(stage, "pool_queue_handed_on_by_word", workflow_id=ids["pool_queue_"], run_id=runs["pool_queue_"])
    await keep(stage, "notices_handed_on_by_word", workflow_id=ids["notices_"], run_id=runs["notices_"])


async def _another(handle: WorkflowHandle[Any, Any], run_id: str | None) -> bool:
    return (await handle.describe()).run_id != run_id


async def test_resized_and_moved(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600})
    agent_id = await stage.started()
    await stage.lives.resize(await stage.agent(agent_id), Size(cpu=2, memory_mib=2048))
    await stage.lives.migrate(await stage.agent(agent_id))
    await stage.forward(601)
    await stage.until(agent_id, AgentState.RESTARTING, AgentState.STARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "resized_and_moved")


async def test_cleared_up_behind(stage: Stage) -> None:
    await stage.started()
    await stage.workflow().terminate("stuck")
    agent_id = await stage.started()
    await stage.stop(agent_id)
    await stage.until_closed()
    await keep(stage, "cleared_up_behind")


async def test_rejected(stage: Stage) -> None:
    await stage.started("ann", "bank")
    await stage.start()
    await stage.until_closed()
    await keep(stage, "rejected")


async def test_scheduled_and_started(stage: Stage) -> None:
    start = await booked(stage)
    await forward(stage, start, timedelta(minutes=61))
    await closed(stage, start)
    await keep(stage, "scheduled_and_started", workflow_id=run_of(stage, start).id)


async def test_scheduled_and_cancelled(stage: Stage) -> None:
    start = await booked(stage)
    await run_of(stage, start).cancel()
    await closed(stage, start)
    await keep(stage, "scheduled_and_cancelled", workflow_id=run_of(stage, start).id)


async def test_scheduled_handed_on_by_word(stage: Stage) -> None:
    start = await booked(stage)
    handle = stage.client.get_workflow_handle(run_of(stage, start).id)
    run_id = (await handle.describe()).run_id
    await handle.signal("hand_on")
    await until(partial(_another, handle, run_id), "another run of the start to come")
    await keep(stage, "scheduled_handed_on_by_word", workflow_id=handle.id, run_id=run_id)


async def test_scheduled_before_a_full_queue(set_stage: SetStage) -> None:
    stage, _ = await full_queue(set_stage)
    start = await row(stage, after=timedelta(0))
    await begin(stage, start, again=timedelta(milliseconds=200), patience=timedelta(seconds=1))
    await closed(stage, start)
    await keep(stage, "scheduled_before_a_full_queue", workflow_id=run_of(stage, start).id)


async def test_relieved_of_pressure(set_stage: SetStage) -> None:
    stage = await set_stage(LONG)
    agent_id = await stage.started()
    await stage.sql("UPDATE agents SET last_activity_at = last_activity_at - interval '1 hour'")
    stage.runtime.pretend(memory_percent=95.0, disk_percent=95.0)
    await measured(stage)
    watch = await stage.client.start_workflow(PressureWatch.run, id="pressure", task_queue=CONTROL_QUEUE)
    seen = await watch.result()
    assert [each.eviction.agent_id for each in seen.leaving] == [agent_id]
    assert seen.emergencies
    await keep(stage, "relieved_of_pressure", workflow_id="pressure")


async def test_maintained(stage: Stage) -> None:
    for name, after in (("maintained", 0), ("maintained_in_time", 2)):
        # As one that was reset by hand: the server does not hold it back.
        ask = MaintenanceOrder(node="node-1", warn_at=datetime.now(UTC) + timedelta(seconds=after))
        await stage.client.execute_workflow(Maintenance.run, ask, id=name, task_queue=CONTROL_QUEUE)
    await keep(stage, "maintained", workflow_id="maintained")
    await keep(stage, "maintained_in_time", workflow_id="maintained_in_time")


async def test_reaped(stage: Stage) -> None:
    await stage.client.execute_workflow(Reaper.run, id="reaper", task_queue=CONTROL_QUEUE)
    await keep(stage, "reaped", workflow_id="reaper")


async def test_notices_handed_on(set_stage: SetStage, backend: Backend) -> None:
    stage = await set_stage(LONG, webhook=backend.settings())
    ask = NoticesInput(channel=Channel.WEBHOOK, history_limit=20)
    notices = await stage.client.start_workflow(Notices.run, ask, id="notices/short", task_queue=CONTROL_QUEUE)
    run_id = notices.first_execution_run_id

    async def another() -> bool:
        await notices.signal("written")
        return (await stage.client.get_workflow_handle(notices.id).describe()).run_id != run_id

    await until(another, "the run to be handed on")
    await keep(stage, "notices_handed_on", workflow_id=notices.id, run_id=run_id)


async def test_notices_sent_and_tried_again(set_stage: SetStage, backend: Backend) -> None:
    patience = Patience(retry_seconds=0.5, retry_most_seconds=0.5)
    stage = await set_stage(LONG, webhook=backend.settings(), notices=patience)
    backend.status = 503
    agent_id = await stage.started()
    await tried(stage, "state = 'pending' AND tries > 1")
    backend.status = 204
    await tried(stage, "state = 'sent'")
    await stage.stop(agent_id)
    await stage.until_closed()
    await tried(stage, "state = 'sent' AND kind = 'agent.terminated'")
    await keep(stage, "notices_sent_and_tried_again", workflow_id="notices/webhook")


async def tried(stage: Stage, what: str) -> None:
    async def there() -> bool:
        return bool(await stage.sql(f"SELECT 1 FROM notices WHERE {what}"))  # noqa: S608  our own words

    await until(there, f"a notice of which {what}")
