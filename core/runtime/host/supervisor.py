"""The host supervisor: one process a machine that owns its agents, and outlives the API and the worker.

It adopts what its agents leave behind, holds a lock on its folder, and serves `server.py` on a private unix socket.
If it dies, its agents die with it; the next one finds in its folder which they were.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import structlog
import uvicorn

from core import launch
from core.errors import RuntimeFault, RuntimePermanent
from core.runtime.base import AgentRuntime
from core.runtime.host.address import host_folder, listen, withdraw
from core.runtime.host.orphans import Orphans
from core.runtime.host.server import build_app
from core.runtime.ledger import Ledger
from core.runtime.memory import MemoryRuntime
from core.runtime.process import ProcessRuntime
from core.settings import Settings

_log = structlog.get_logger()
_CLOSE_SECONDS = 2


class HostTaken(RuntimePermanent):
    """Another supervisor holds this folder."""

    code = "host_taken"


async def run_host(settings: Settings) -> int:
    """Be the host supervisor until SIGTERM or SIGINT; then stop all agents in order. Returns an exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    announce = settings.data_dir / "run" / "host.ready"
    try:
        await serve_host(settings, on_ready=lambda: _announce(announce), stop=stop)
    except RuntimeFault as fault:
        _log.error("host.cannot_serve", detail=fault.detail)
        return 1
    except OSError as error:
        _log.error("host.cannot_serve", detail=f"the data folder {settings.data_dir} cannot be used: {error}")
        return 1
    finally:
        _withdraw_announcement(announce)
    return 0


async def serve_host(settings: Settings, *, on_ready: Callable[[], None], stop: asyncio.Event) -> None:
    """Serve until `stop`. Raises `HostTaken` when another one serves this data folder."""
    folder = host_folder(settings.data_dir)
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    with _lock(folder):
        launch.become_subreaper()
        async with _runtimes(settings) as runtimes:
            listener = listen(settings.data_dir)
            server = _Server(
                uvicorn.Config(
                    build_app(runtimes),
                    lifespan="off",
                    access_log=False,
                    log_config=None,
                    ws="none",
                    timeout_graceful_shutdown=_CLOSE_SECONDS,
                    timeout_keep_alive=60,
                )
            )
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await server.wait_started(serving)
                on_ready()
                _log.info("host.ready", pid=os.getpid(), runtimes=sorted(runtimes))
                stopping = asyncio.create_task(stop.wait())
                await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                _log.info("host.stopping")
                # While it still answers: nobody is left to wonder, and watchers see the stream end.
                for runtime in runtimes.values():
                    await runtime.close()
            finally:
                withdraw(settings.data_dir)
                server.should_exit = True
                await serving


@contextlib.asynccontextmanager
async def _runtimes(settings: Settings) -> AsyncIterator[dict[str, AgentRuntime]]:
    process = ProcessRuntime(settings)
    await process.start()
    memory = MemoryRuntime(settings.memory, Ledger(host_folder(settings.data_dir) / "memory.jsonl"))
    orphans = Orphans(process.mains)
    orphans.start()
    process.adopt(orphans.adopted)
    try:
        yield {memory.name: memory, process.name: process}
    finally:
        for runtime in (memory, process):
            await runtime.close()
        orphans.stop()


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the supervisor stops its agents before it stops answering."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def wait_started(self, serving: asyncio.Task[None]) -> None:
        while not self.started:
            if serving.done():
                serving.result()
                raise RuntimeError("the host's web server ended before it began")
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Held by the kernel for as long as this process lives, however it ends."""
    with (folder / "host.lock").open("a+") as file:
        os.chmod(file.fileno(), 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            raise HostTaken(f"another host supervisor (pid {holder}) serves {folder}") from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _announce(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{os.getpid()}\n")
    fresh.replace(path)


def _withdraw_announcement(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.read_text().strip() == str(os.getpid()):
            path.unlink()
