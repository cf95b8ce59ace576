"""Everything live of one API process, opened and closed with the app."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from api.deps import Deps
from api.live import serverlog
from api.live.beats import Beats
from api.live.calls import Calls
from api.live.desktop import Desktops
from api.live.intake import Intake
from api.live.limits import (
    DESKTOP_SECONDS,
    MAX_AGENT_KNOCKS,
    MAX_AGENT_REPORTS,
    MAX_AGENT_SOCKETS,
    MAX_USER_CALLS,
    MAX_USER_DOWNLOADS,
    MAX_USER_SOCKETS,
    USER_SOCKET_SECONDS,
)
from api.live.positions import Positions
from api.live.presence import stay_present
from api.live.reporter import Reporter
from api.live.seats import NewestSeats, Seats
from api.live.upload import Intray
from api.live.volumes import Volumes
from core.db.notify import Listener
from core.errors import RuntimePermanent
from core.ids import new_uuid7
from core.runtime.base import Reach

_REACH_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Live:
    """`replica` names this process, `listener` is its one ear to the database.

    `background` never ends by itself; when some of it does, whoever serves the app ends the process.
    """

    replica: str
    deps: Deps
    listener: Listener
    intake: Intake
    calls: Calls
    desktops: Desktops
    positions: Positions
    background: Sequence[asyncio.Task[None]]
    seats: Seats = field(default_factory=lambda: Seats(MAX_USER_SOCKETS, "sockets"))
    calling: Seats = field(default_factory=lambda: Seats(MAX_USER_CALLS, "waiting calls"))
    downloading: Seats = field(default_factory=lambda: Seats(MAX_USER_DOWNLOADS, "downloads"))
    reporting: Seats = field(default_factory=lambda: Seats(MAX_AGENT_REPORTS, "reports of an agent"))
    knocking: Seats = field(default_factory=lambda: Seats(MAX_AGENT_KNOCKS, "handshakes of an agent"))
    speaking: NewestSeats = field(default_factory=lambda: NewestSeats(MAX_AGENT_SOCKETS))
    volumes: Volumes = field(default_factory=Volumes)
    beats: Beats = field(default_factory=Beats)
    intray: Intray = field(default_factory=Intray)
    user_socket_seconds: float = USER_SOCKET_SECONDS


@asynccontextmanager
async def open_live(
    deps: Deps,
    database_url: str,
    *,
    user_socket_seconds: float = USER_SOCKET_SECONDS,
    desktop_seconds: float = DESKTOP_SECONDS,
) -> AsyncIterator[Live]:
    """The live part at work; whoever opens the app keeps it in `app.state.live` for as long as the app serves."""

    async def reach(runtime: str, agent_id: str, attempt: int) -> Reach:
        if runtime not in deps.runtimes:
            raise RuntimePermanent(f"this API has no way to agents of the runtime {runtime!r}")
        async with asyncio.timeout(_REACH_SECONDS):
            return await deps.runtimes[runtime].reach(agent_id, attempt)

    serverlog.install()
    replica = f"api-{new_uuid7().hex}"
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(Listener.open(database_url))
        reporter = Reporter(deps.db, deps.lives)
        stack.push_async_callback(reporter.close)
        calls = Calls(deps.db, listener, reach)
        stack.push_async_callback(calls.close)
        positions = Positions(deps.db, listener, deps.settings)
        looking = await stack.enter_async_context(_running(positions.run(), "positions"))
        present = await stack.enter_async_context(_running(stay_present(deps.db, replica), "presence"))
        yield Live(
            replica=replica,
            deps=deps,
            listener=listener,
            intake=Intake(deps.db, reporter),
            calls=calls,
            desktops=Desktops(deps.db, listener, reach, desktop_seconds),
            positions=positions,
            background=(listener.task, looking, present),
            user_socket_seconds=user_socket_seconds,
        )


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def live_of(connection: HTTPConnection) -> Live:
    live: Live = connection.app.state.live
    return live
