"""Which runtimes a process has to do with, and those opened. Not with the worker, whose parts others can spare."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Set

import structlog

from core.db.engine import Db
from core.db.repositories import upkeep
from core.runtime.base import AgentRuntime
from core.runtime.registry import open_runtime, runtime_names
from core.settings import Settings

log = structlog.get_logger()


async def places_to_serve(db: Db, settings: Settings) -> dict[str, str]:
    """Pool to runtime: what is configured, and what living agents were made by before it was taken out.

    Nobody else would end those, and their slots and quota would never come free.
    """
    async with db.single() as session:
        used = await upkeep.places_in_use(session)
    for pool, runtime in used.items():
        if runtime not in runtime_names():
            log.warning("runtime.unknown", pool=pool, runtime=runtime)
    return served(used, settings)


def served(used: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Of the places that living agents were made by, those that this version can serve, and what is configured."""
    known = set(runtime_names())
    configured = {name: pool.runtime for name, pool in settings.all_pools().items()}
    return {pool: runtime for pool, runtime in used.items() if runtime in known} | configured


@contextlib.asynccontextmanager
async def open_runtimes(settings: Settings, names: Set[str]) -> AsyncIterator[dict[str, AgentRuntime]]:
    """The runtimes of these names, closed at the end."""
    runtimes = {name: open_runtime(name, settings) for name in sorted(names)}
    try:
        yield runtimes
    finally:
        for runtime in runtimes.values():
            await runtime.close()
