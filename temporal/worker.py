"""The worker's composition root: builds every part it needs, runs them, and lets go in order."""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import structlog
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities.lives import LifeActivities
from activities.looking import LookActivities
from activities.maintenance import MaintenanceActivities
from activities.notices import NoticeActivities, Sender, senders_of
from activities.pools import PoolActivities
from activities.ports import Meter
from activities.pressure import PressureActivities
from activities.reaping import ReapingActivities
from activities.runtime import RuntimeActivities
from activities.scheduling import SchedulingActivities
from core.db.engine import Db
from core.domain.notices import Channel
from core.leaving import leave
from core.runtime.base import AgentRuntime, SharedRuntime
from core.settings import Settings
from temporal.interceptors import Sieve
from temporal.lifelog import LifeLog
from temporal.lives import Lives
from temporal.metrics import metered
from temporal.notices import Bell, open_channels
from temporal.places import open_runtimes, places_to_serve
from temporal.process import announce, not_ready_yet, told_to_stop, until, when_there
from temporal.sampler import Sampler
from temporal.stuck import PATIENCE_SECONDS, stuck
from temporal.tracing import tracing
from temporal.versions import deployment_of
from temporal.watcher import Watcher
from workflows.agent import AgentWorkflow
from workflows.maintenance import Maintenance
from workflows.notices import Notices
from workflows.options import CONTROL_QUEUE, runtime_queue
from workflows.pool_queue import PoolQueue
from workflows.pressure import PressureWatch
from workflows.reaper import Reaper
from workflows.scheduled_start import ScheduledStart

log = structlog.get_logger()
# A worker that was killed holds its workflows' sticky queue this long (server default 10 s) before another takes over.
_STICKY = timedelta(seconds=2)
# How often the server hears of an activity that goes on; by default it is not before most of its patience is over.
_BEAT_EVERY = timedelta(seconds=1)
_DRAIN = timedelta(seconds=10)
# Python does one at a time. What is taken beyond a few waits here, where its time runs, for what others wait for; what
# is late is done again from the beginning. Of 20 at once on a machine that was short of CPU more were lost than done,
# for as long as that lasted; of 8 hardly any.
_MOST_STEPS = 8


async def run_worker(settings: Settings, *, ready_file: Path | None = None) -> int:
    """Work until SIGTERM or SIGINT. Returns the exit code."""
    stop = told_to_stop()
    not_ready_yet(ready_file)
    settings.require_one_runtime_a_cluster()
    url = settings.database.url
    if url is None:
        raise ValueError("set BERTH_DATABASE__URL, or start everything with `berth up`")
    senders = senders_of(settings)
    sdk, meter = metered(settings.worker)
    async with (
        # Activities are tried again, so nothing is lost by finding a dead connection the hard way.
        Db.open(
            url.get_secret_value(), application="worker", pool_size=settings.database.pool_size, ask_first=False
        ) as db,
        tracing(settings, "worker") as traces,
        contextlib.AsyncExitStack() as opened,
    ):
        await open_channels(db, settings, senders)
        places = await places_to_serve(db, settings)
        runtimes = await opened.enter_async_context(open_runtimes(settings, set(places.values())))
        client = await when_there(settings, stop, sdk, traces)
        if client is None:
            return 0
        lives = Lives(client, settings.timings.grant_tick_seconds)
        sampler = Sampler(settings, runtimes, db, lives, meter)
        await sampler.look()
        async with contextlib.AsyncExitStack() as stack:
            # Without the sandbox: it costs a quarter of a worker's time, and on Python 3.11 its imports race.
            runner = UnsandboxedWorkflowRunner()
            serving = workers(client, settings, db, runtimes, lives, places, senders, runner, meter)
            for worker in serving:
                await stack.enter_async_context(worker)
            bell = Bell(client, db, url.get_secret_value(), settings.timings.grant_tick_seconds)
            background = [
                asyncio.create_task(sampler.run(), name="sampler"),
                asyncio.create_task(bell.run(), name="bell"),
                asyncio.create_task(stuck(serving, PATIENCE_SECONDS), name="a step that cannot be cleared away"),
            ]
            for name, runtime in runtimes.items():
                if not isinstance(runtime, SharedRuntime):  # those are watched by `berth watch`, once for all workers
                    watcher = Watcher(name, runtime, db, lives, meter)
                    background.append(asyncio.create_task(watcher.run(), name=f"watch {name}"))
            if ready_file is not None:
                await asyncio.to_thread(announce, ready_file)
            log.info("worker.ready", pools=sorted(settings.all_pools()), runtimes=sorted(runtimes))
            code = await until(stop, background)
            if ready_file is not None:
                await asyncio.to_thread(ready_file.unlink, missing_ok=True)
            leaving = asyncio.create_task(_leave_if_stuck(serving, code))
        leaving.cancel()
        return code


async def _leave_if_stuck(serving: list[Worker], code: int) -> None:
    """A worker waits for such a step for ever before it ends. Whatever else is under way is done again by another."""
    await stuck(serving, _DRAIN.total_seconds())
    leave(code)


def workers(
    client: Client,
    settings: Settings,
    db: Db,
    runtimes: Mapping[str, AgentRuntime],
    lives: Lives,
    places: Mapping[str, str],
    senders: Mapping[Channel, Sender],
    runner: WorkflowRunner | None = None,
    meter: Meter | None = None,
) -> list[Worker]:
    """One for decisions, and one for each of `places` (pool to runtime) whose runtime can be reached from here.

    `runner` None is the sandbox, which catches workflow code that is not deterministic; all tests run under it.
    `meter` None counts nothing.
    """
    life = LifeActivities(db, settings, lives, meter)
    looking = LookActivities(db, settings, runtimes)
    pool = PoolActivities(db, settings, lives, meter)
    scheduling = SchedulingActivities(db, settings, lives)
    reaping = ReapingActivities(db, settings, lives, runtimes, life, meter)
    pressure = PressureActivities(db, settings, lives, runtimes, reaping)
    maintenance = MaintenanceActivities(db, settings, lives, runtimes)
    notices = NoticeActivities(db, settings, senders)
    at_runtime = RuntimeActivities(db, settings, runtimes, meter)
    control = Worker(
        client,
        task_queue=CONTROL_QUEUE,
        workflows=[AgentWorkflow, PoolQueue, ScheduledStart, Reaper, PressureWatch, Maintenance, Notices],
        workflow_runner=runner or SandboxedWorkflowRunner(),
        interceptors=[Sieve(), LifeLog()],
        activities=[
            life.register,
            life.begin,
            life.mark_running,
            life.mark_restarting,
            life.mark_draining,
            life.mark_hastened,
            life.mark_kept,
            life.mark_resized,
            life.mark_migrating,
            life.withdraw,
            life.finish,
            looking.look,
            pool.grant_slots,
            pool.rejoin,
            scheduling.start_scheduled,
            scheduling.withdraw_scheduled,
            reaping.reap,
            pressure.look_for_pressure,
            pressure.evict_agents,
            pressure.clear_disks,
            maintenance.warn_of_maintenance,
            notices.deliver_notices,
        ],
        deployment_config=deployment_of(settings),
        max_cached_workflows=2000,
        max_concurrent_local_activities=settings.database.pool_size,
        # A step's time runs from when it is taken. What of a crowd cannot be done yet waits at the server instead.
        max_concurrent_workflow_tasks=min(_MOST_STEPS, 2 * settings.database.pool_size),
        max_heartbeat_throttle_interval=_BEAT_EVERY,
        sticky_queue_schedule_to_start_timeout=_STICKY,
        graceful_shutdown_timeout=_DRAIN,
    )
    per_pool = [
        Worker(
            client,
            task_queue=runtime_queue(name),
            activities=[
                at_runtime.create_agent,
                at_runtime.shut_down_agent,
                at_runtime.resize_agent,
                at_runtime.find_other_machine,
            ],
            # Of the same version: what a life asks of its runtime is understood by those who ask it.
            deployment_config=deployment_of(settings),
            # An agent that takes its 30 s to leave occupies one of these.
            max_concurrent_activities=500,
            max_heartbeat_throttle_interval=_BEAT_EVERY,
            interceptors=[LifeLog()],
            graceful_shutdown_timeout=_DRAIN,
        )
        for name, runtime in places.items()
        if runtime in runtimes
    ]
    return [control, *per_pool]
