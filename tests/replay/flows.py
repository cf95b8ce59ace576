"""The flows whose histories are checked in. Run by `tests.replay.record`, never as tests."""

import asyncio
import json
import re
from datetime import timedelta
from typing import Any

from core.domain.lifecycle import AgentState
from core.domain.notices import Patience
from core.domain.sizes import Size
from core.domain.timings import Timings
from tests.fakes.stubborn import Stubborn
from tests.fixtures.bookings import begin, booked, closed, forward, full_queue, row, run_of
from tests.fixtures.receivers import Backend
from tests.fixtures.stage import SetStage, Stage, until
from tests.replay.histories import HISTORIES
from tests.workflows.test_pressure import measured
from tests.workflows.test_succession import forgotten
from workflows.options import CONTROL_QUEUE
from workflows.pressure import PressureWatch

LONG = {"grace_seconds": 600, "grant_tick_seconds": 600}
_WORKER = re.compile(r"\d+@")
_OF_THE_MACHINE = {"identity", "binaryChecksum", "workerVersion", "deploymentVersion", "workerDeploymentName"}


async def keep(stage: Stage, name: str, *, run_id: str | None = None, workflow_id: str | None = None) -> None:
    """Write the history of one run, without what it tells of the machine it was recorded on."""
    handle = stage.client.get_workflow_handle(workflow_id or stage.workflow().id, run_id=run_id)
    history = await handle.fetch_history()
    events = _without(json.loads(history.to_json()))
    path = HISTORIES / f"{name}.json"
    path.write_text(json.dumps({"workflowId": handle.id, **events}, separators=(",", ":")) + "\n")


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in _OF_THE_MACHINE}
    if isinstance(value, list):
        return [_without(inner) for inner in value]
    # A worker's own queue is called by its process and host.
    return "worker" if isinstance(value, str) and _WORKER.match(value) else value


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
