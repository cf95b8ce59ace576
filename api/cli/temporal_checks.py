"""What Temporal tells of a running installation: who takes its work, and whether what comes every so often came."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.service import RPCError, RPCStatusCode

from api.cli.verdicts import Check, For, Verdict
from core.errors import Unavailable
from temporal.schedules import PRESSURE_SCHEDULE, REAPER_SCHEDULE
from temporal.versions import Releases
from workflows.options import CONTROL_QUEUE, runtime_queue

if TYPE_CHECKING:
    from temporalio.client import Client

    from core.settings import Settings

_RUNNING = For.RUNNING
_TIMEOUT = timedelta(seconds=5)
# A poll waits on the server for a minute, and is remembered for five after whoever polled is gone.
_POLLED_WITHIN = timedelta(seconds=70)
# Work that waits for longer has nobody who takes it, whoever may have polled a moment ago.
_TAKEN_WITHIN = timedelta(seconds=10)
# A look may take its time, and the next one is left out meanwhile.
_MISSED = 3
_SLACK = timedelta(seconds=10)


async def namespace(client: "Client") -> Check:
    """Raises what the server does, unless it is that it has no such namespace."""
    what, name = "Temporal", client.namespace
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name), timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        mend = f"temporal operator namespace create -n {name}, or set BERTH_TEMPORAL__NAMESPACE"
        return Check(_RUNNING, what, Verdict.PROBLEM, f"it has no namespace {name}", mend)
    return Check(_RUNNING, what, Verdict.OK, f"answers at {client.service_client.config.target_host}")


async def examine(client: "Client", settings: "Settings", pools: Sequence[str]) -> list[Check]:
    timings = settings.timings
    return [
        await _queue(client, CONTROL_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW),
        *[await _queue(client, runtime_queue(pool), TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY) for pool in pools],
        await _schedule(client, REAPER_SCHEDULE, timedelta(seconds=timings.reap_seconds)),
        await _schedule(client, PRESSURE_SCHEDULE, timedelta(seconds=timings.pressure_seconds)),
        *await _releases(client, settings),
    ]


async def _releases(client: "Client", settings: "Settings") -> list[Check]:
    """Of workers with versions: without a current one nobody takes a start on. Nothing where there are none."""
    what = "release"
    try:
        releases = await Releases(client, settings.worker.deployment).all()
    except RPCError as error:
        return [_unasked(what, error)]
    except Unavailable as error:
        return [Check(_RUNNING, what, Verdict.PROBLEM, str(error), "look at Temporal's log")]
    if not releases:
        return []
    current = next((each.build_id for each in releases if each.current), None)
    if current is None:
        found = f"none of {', '.join(each.build_id for each in releases)} is the current one: no start is taken on"
        return [Check(_RUNNING, what, Verdict.PROBLEM, found, f"berth releases use {releases[0].build_id}")]
    return [Check(_RUNNING, what, Verdict.OK, f"{current} is the current one")]


async def _queue(client: "Client", name: str, kind: TaskQueueType.ValueType) -> Check:
    what, mend = f"task queue {name}", "start a worker, or look at its log: berth worker"
    try:
        said = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace, task_queue=TaskQueue(name=name), task_queue_type=kind, report_stats=True
            ),
            timeout=_TIMEOUT,
        )
    except RPCError as error:
        return _unasked(what, error)
    now = datetime.now(UTC)
    seen = [each.last_access_time.ToDatetime(UTC) for each in said.pollers]
    polling = sum(now - at <= _POLLED_WITHIN for at in seen)
    waiting = said.stats.approximate_backlog_age.ToTimedelta()
    if not polling:
        found = f"no worker has asked for work since {max(seen):%H:%M:%S} UTC" if seen else "no worker asks for work"
        return Check(_RUNNING, what, Verdict.PROBLEM, found, mend)
    if said.stats.approximate_backlog_count and waiting > _TAKEN_WITHIN:
        found = f"nobody has taken its oldest work for {waiting.total_seconds():.0f} s"
        return Check(_RUNNING, what, Verdict.PROBLEM, found, mend)
    return Check(_RUNNING, what, Verdict.OK, f"{polling} ask for work")


async def _schedule(client: "Client", name: str, every: timedelta) -> Check:
    what, mend = f"schedule {name}", "it is made by each worker that starts: berth worker"
    try:
        found = await client.get_schedule_handle(name).describe(rpc_timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return Check(_RUNNING, what, Verdict.PROBLEM, "there is none", mend)
        return _unasked(what, error)
    if found.schedule.state.paused:
        mend = f"temporal schedule toggle --unpause -s {name} --reason mended"
        return Check(_RUNNING, what, Verdict.PROBLEM, "it is paused", mend)
    ran = [action.started_at for action in found.info.recent_actions]
    since = datetime.now(UTC) - max([*ran, found.info.created_at])
    told = f"{since.total_seconds():.0f} s ago"
    if since > _MISSED * every + _SLACK:
        mend = f"a run of it may hang, or nobody works: temporal schedule describe -s {name}"
        return Check(
            _RUNNING, what, Verdict.PROBLEM, f"ran last {told}, and should every {every.total_seconds():g} s", mend
        )
    return Check(_RUNNING, what, Verdict.OK, f"ran {told}" if ran else f"made {told}")


def _unasked(what: str, error: RPCError) -> Check:
    found = f"it cannot be asked for ({error.status.name})"
    return Check(_RUNNING, what, Verdict.PROBLEM, found, "look at Temporal's log")
