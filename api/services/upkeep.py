"""Forgets what has run out: kept answers after a day, tickets nobody used."""

import asyncio

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.deps import Deps
from core.db.repositories import idempotency, tickets

log = structlog.get_logger()
_EVERY_SECONDS = 600.0


async def forget_old(deps: Deps) -> None:
    """Once; any number of replicas may do it at the same time."""
    now = deps.clock()
    async with deps.db.transaction() as session:
        await idempotency.purge(session, now)
        await tickets.purge(session, now)


async def keep_forgetting(deps: Deps) -> None:
    """Until cancelled. A database that is away costs a round, nothing else."""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        try:
            await forget_old(deps)
        except (SQLAlchemyError, OSError) as error:
            log.warning("upkeep.skipped", kind=type(error).__name__)
