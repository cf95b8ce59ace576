"""Everything live of one API process, opened and closed with the app."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from starlette.requests import HTTPConnection

from api.deps import Deps
from api.live.calls import Calls
from api.live.intake import Intake
from api.live.reporter import Reporter
from core.db.notify import Listener
from core.errors import RuntimePermanent
from core.ids import new_uuid7
from core.runtime.base import Reach

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Live:
    """`replica` names this process. `listener` is its one ear to the database."""

    replica: str
    deps: Deps
    listener: Listener
    intake: Intake
    calls: Calls

    async def reach(self, runtime: str, agent_id: str, attempt: int) -> Reach:
        return await _reach(self.deps, runtime, agent_id, attempt)


@asynccontextmanager
async def open_live(deps: Deps, database_url: str) -> AsyncIterator[Live]:
    """The live part at work. The app keeps it in `app.state.live`."""

    async def reach(runtime: str, agent_id: str, attempt: int) -> Reach:
        return await _reach(deps, runtime, agent_id, attempt)

    replica = f"api-{new_uuid7().hex}"
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(Listener.open(database_url))
        reporter = Reporter(deps.db, deps.lives)
        stack.push_async_callback(reporter.close)
        calls = Calls(deps.db, listener, reach)
        stack.push_async_callback(calls.close)
        live = Live(replica=replica, deps=deps, listener=listener, intake=Intake(deps.db, reporter), calls=calls)
        yield live


async def _reach(deps: Deps, runtime: str, agent_id: str, attempt: int) -> Reach:
    if runtime not in deps.runtimes:
        raise RuntimePermanent(f"this API has no way to agents of the runtime {runtime!r}")
    async with asyncio.timeout(10):
        return await deps.runtimes[runtime].reach(agent_id, attempt)


def live_of(connection: HTTPConnection) -> Live:
    live: Live = connection.app.state.live
    return live
