"""The HTTP server around an app: its socket, its signals, and the word that it is ready."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from api.live.limits import SERVER_OPTIONS
from core.errors import Unavailable

log = structlog.get_logger()

_BACKLOG = 2048
_UNREAD_MS = 30_000
_OPTIONS: dict[str, Any] = {
    "lifespan": "on",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": 5,
    **SERVER_OPTIONS,
}


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn raises them again when it has stopped, before our parts are closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    app: FastAPI, listening: Sequence[socket.socket], ready_file: Path, background: Sequence[asyncio.Task[None]]
) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code. `ready_file` holds our pid meanwhile.

    Who waits for long is answered as soon as it is to stop (`app.state.leave`).

    Also until a part of `background` ends, which none should: then all of it goes, to be started anew. Requests are
    answered and sockets closed as at any stop, so that callers and agents turn to another replica.
    """
    server = _Server(uvicorn.Config(app, **_OPTIONS))
    broken: list[str] = []

    def leave() -> None:
        server.should_exit = True
        app.state.leave()

    def ended(part: asyncio.Task[None]) -> None:
        broken.append(part.get_name())
        fault = None if part.cancelled() else part.exception()
        log.error("process.part_ended", part=part.get_name(), exc_info=fault)
        leave()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    for part in background:
        part.add_done_callback(ended)
    serving = asyncio.create_task(server.serve(sockets=[*listening]))
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110  (uvicorn tells by an attribute alone)
            await asyncio.sleep(0.01)
        if server.started:
            await asyncio.to_thread(_announce, ready_file)
            host, port = listening[0].getsockname()[:2]
            log.info("api.ready", host=host, port=port)
        await serving
    finally:
        for part in background:
            part.remove_done_callback(ended)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await asyncio.to_thread(ready_file.unlink, missing_ok=True)
    return 0 if server.started and not broken else 1


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on. Raises `Unavailable` (`port_taken`)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it. Without it each answer's body waits 40 ms for the client to acknowledge its head:
    # asyncio sets it by itself only on sockets that were made with a protocol number.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Connections inherit it: a peer that takes nothing for so long is cut off, although it answers the kernel's probes.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        why = error.strerror or str(error)
        raise Unavailable(f"cannot listen on {host}:{port}: {why}; set BERTH_API__PORT", code="port_taken") from error
    listening.setblocking(False)
    return listening


def _announce(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever waits for the file never sees half of it.
    fresh = path.with_suffix(".new")
    fresh.write_text(str(os.getpid()))
    fresh.replace(path)
