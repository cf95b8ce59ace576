"""How a process that works for lives begins and ends: signals, Temporal when it answers, a file that says ready."""

import asyncio
import contextlib
import itertools
import os
import signal
from pathlib import Path

import structlog
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from core.settings import Settings
from temporal import schedules
from temporal.client import connect
from temporal.tracing import Traces

log = structlog.get_logger()
_PATIENCE_SECONDS = 600


def told_to_stop() -> asyncio.Event:
    """Set on SIGTERM or SIGINT from now on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def when_there(
    settings: Settings, stop: asyncio.Event, runtime: Runtime | None = None, traces: Traces | None = None
) -> Client | None:
    """A connected client, the namespace prepared, as soon as the server answers; it may be just starting.

    None when told to `stop` before that. Raises what is wrong with the server when it has not answered for ten minutes:
    a process that only waits is tried again by its supervisor at once, one that keeps ending at ever longer pauses.
    """
    last = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    for pause in itertools.chain((0.1, 0.2, 0.5, 1, 1, 2, 2), itertools.repeat(5)):
        try:
            return await _prepared(settings, runtime, traces)
        except (RPCError, RuntimeError) as error:
            if asyncio.get_running_loop().time() >= last:
                raise
            log.info("temporal.waited_for", error=type(error).__name__)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
            return None
    raise AssertionError("pauses have no end")


async def _prepared(settings: Settings, runtime: Runtime | None, traces: Traces | None) -> Client:
    client = await connect(settings, lazy=False, runtime=runtime, traces=traces)
    timings = settings.timings
    await schedules.ensure(client, reap_seconds=timings.reap_seconds, pressure_seconds=timings.pressure_seconds)
    return client


async def until(stop: asyncio.Event, background: list[asyncio.Task[None]]) -> int:
    """Until told to stop, or until a part that should never end did: then all of it goes, to be started anew."""
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopped, *background], return_when=asyncio.FIRST_COMPLETED)
    code = 0
    for task in done - {stopped}:
        log.error("process.part_ended", part=task.get_name(), exc_info=task.exception())
        code = 1
    for task in (stopped, *background):
        task.cancel()
    await asyncio.gather(stopped, *background, return_exceptions=True)
    return code


def announce(path: Path) -> None:
    """Say in a file that this process is ready, by its id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(os.getpid()))


def not_ready_yet(path: Path | None) -> None:
    """Take back what the process before this one announced: killed, it left its word behind for whoever asks now."""
    if path is not None:
        path.unlink(missing_ok=True)
