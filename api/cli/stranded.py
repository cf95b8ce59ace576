"""Living agents of runtimes that no worker of these settings has: nobody can end them or make them anew."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from api.cli import show
from core.db.engine import Db
from core.db.repositories import upkeep
from temporal.places import served

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from core.settings import Settings

MEND = "start with that runtime again, or: berth agents terminate AGENT --abandon"
_SECONDS = 10.0


async def stranded(session: "AsyncSession", settings: "Settings") -> dict[str, int]:
    """How many agents by runtime, as a worker that starts now would find it. Raises what the database does."""
    had = set(served(await upkeep.places_in_use(session), settings).values())
    living = await upkeep.living_by_runtime(session)
    return {runtime: living[runtime] for runtime in sorted(living.keys() - had)}


def told(found: Mapping[str, int]) -> str:
    words = (f"{count} agent{'s' if count > 1 else ''} of runtime {runtime}" for runtime, count in found.items())
    return f"{' and '.join(words)}, which no worker here has"


async def warn(url: str, settings: "Settings") -> None:
    """Tell the person who starts a stack on this database when agents live there that it cannot serve."""
    try:
        async with (
            asyncio.timeout(_SECONDS),
            Db.open(url, application="up", pool_size=1) as db,
            db.single() as session,
        ):
            found = await stranded(session, settings)
    except (SQLAlchemyError, OSError, TimeoutError):
        # A word more is not worth a stack that runs; `berth doctor --running` has it as well.
        return
    if found:
        show.note(f"berth: {told(found)}: {MEND}")
