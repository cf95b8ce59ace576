"""What the routes are given: the parts behind the API, and who calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Protocol

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from api.auth import Identity, Verifier
from api.credentials import no_bearer
from core.db.engine import Db
from core.db.repositories import users
from core.db.repositories.agents import AgentView
from core.db.repositories.scheduled import ScheduledView
from core.db.repositories.users import UserRecord
from core.domain.orders import (
    AbandonOrder,
    FailureReport,
    MaintenanceOrder,
    OrderAnswer,
    StartAnswer,
    StartRequest,
    StopOrder,
)
from core.domain.sizes import Size
from core.domain.timings import Timings
from core.errors import Busy, Forbidden, Unavailable
from core.runtime.base import AgentRuntime
from core.settings import Settings


class ScheduledStarts(Protocol):
    """Runs that wait for a scheduled start's time. Each raises `Unavailable`; the row alone is promise enough."""

    async def begin(self, start: ScheduledView) -> None: ...

    async def withdraw(self, scheduled_start_id: str) -> bool: ...


class Lives(Protocol):
    """Orders to the agents' workflows; `temporal.lives.Lives` is the real one.

    Each raises `Unavailable`: `worker_silent` when no worker answered in time, `temporal_unavailable` when there is no
    server. False: no workflow runs for that life any more; its row is about to say so.
    """

    @property
    def scheduled(self) -> ScheduledStarts: ...

    async def start(self, request: StartRequest, *, anew: bool = False) -> StartAnswer: ...

    async def stop(self, agent: AgentView, order: StopOrder) -> bool: ...

    async def abandon(self, agent: AgentView, order: AbandonOrder, timings: Timings) -> None:
        """End it without its runtime's word, also when no workflow runs for it any more."""

    async def keep(self, agent: AgentView) -> bool:
        """True when the agent runs on."""

    async def restart(self, agent: AgentView) -> bool: ...

    async def resize(self, agent: AgentView, size: Size) -> OrderAnswer: ...

    async def migrate(self, agent: AgentView) -> OrderAnswer: ...

    async def wake_pool(self, pool: str) -> bool:
        """Have a pool look at its queue."""

    async def maintain(self, maintenance_id: str, order: MaintenanceOrder) -> int | None:
        """See that who lives there then is warned in time, whatever becomes of this process.

        Returns how many were, where that is known within seconds.
        """

    async def ready(self, agent_id: str, attempt: int, workflow_id: str) -> bool: ...

    async def failed(self, workflow_id: str, report: FailureReport) -> bool: ...


Probe = Callable[[], Awaitable[None]]


# A database that hangs refuses nobody: who has waited so long has most likely left, and wants nothing done any more.
TURN_SECONDS = 10.0


class Turnstile:
    """Lets so many through at once and so many more wait, each for 10 seconds; the rest are told to come back.

    Without it a burst on one replica would wait in the connection pool, whose patience soon ends with an error.
    Raises `Busy`, and after the waiting `Unavailable` (`database_unavailable`).
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._gate = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._most = waiting

    async def __aenter__(self) -> None:
        if self._waiting >= self._most:
            raise Busy("too many requests wait for this server", retry_after=2)
        self._waiting += 1
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._gate.acquire()
        except TimeoutError:
            raise Unavailable("the database does not answer in time", code="database_unavailable") from None
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._gate.release()


@dataclass(frozen=True, kw_only=True)
class Deps:
    """Opened once in the composition root. `runtimes` by name; `probes` answer or raise, for `/ready`."""

    settings: Settings
    db: Db
    lives: Lives
    verifier: Verifier
    runtimes: Mapping[str, AgentRuntime] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    turnstile: Turnstile = field(default_factory=lambda: Turnstile(10, 5000))

    @asynccontextmanager
    async def acting(self, who: Identity) -> AsyncIterator[tuple[AsyncSession, UserRecord]]:
        """A transaction for a known user. Raises `NotFound` (`unknown_user`): a valid token makes no user."""
        async with self.turnstile, self.db.transaction() as session:
            yield session, await users.require(session, who.user_id)


async def deps_of(connection: HTTPConnection) -> Deps:
    # A coroutine: FastAPI would send a plain function to a thread, at a millisecond a request.
    deps: Deps = connection.app.state.deps
    return deps


_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", bearerFormat="JWT", description="`sub` is the user's id")


async def caller(
    deps: Annotated[Deps, Depends(deps_of)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Identity:
    if credentials is None:
        raise no_bearer()
    return await deps.verifier.verify(credentials.credentials)


async def operator(who: Annotated[Identity, Depends(caller)]) -> Identity:
    if not who.is_admin:
        raise Forbidden("this is for administrators")
    return who


DepsOf = Annotated[Deps, Depends(deps_of)]
Caller = Annotated[Identity, Depends(caller)]
Operator = Annotated[Identity, Depends(operator)]
