"""What the live part needs of others: the lives behind it, and the way to an agent."""

from datetime import UTC, datetime
from typing import Protocol

import sqlalchemy.exc

from core.domain.orders import FailureReport
from core.runtime.base import Reach

# What a database that is away looks like; never a reason to tell an agent that its token is dead.
DATABASE_AWAY = (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError, OSError, TimeoutError)


class Lives(Protocol):
    """Signals to a life's workflow. Raises `core.errors.Unavailable` when Temporal does not answer."""

    async def ready(self, agent_id: str, attempt: int, workflow_id: str) -> object: ...

    async def failed(self, workflow_id: str, report: FailureReport) -> object: ...


class Reacher(Protocol):
    """Where an agent answers now, asked of the runtime that runs it. Raises `core.errors.RuntimeFault`."""

    async def __call__(self, runtime: str, agent_id: str, attempt: int) -> Reach: ...


def now() -> datetime:
    return datetime.now(UTC)
