"""The database's schema, from the command line: `berth migrate`."""

import asyncio
import time
from typing import Annotated

import typer

from api.cli import config
from api.cli.faults import Unreachable
from api.cli.parts import GROUP, log_as

_ASK_EVERY = 0.5
# SQLSTATEs of a server that is just starting or stopping, has not made the database yet, or whose tables are in use.
_NOT_YET = ("08", "57P", "3D000", "55P03")


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=GROUP)(migrate)


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail when it is not done.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="How many seconds to go on trying.")] = 0,
) -> None:
    """Bring the database to this version's schema.

    With --check and --wait a part waits here until somebody else has done it.
    """
    settings = config.load()
    url = config.require_database(settings)
    log_as("migrate", settings)
    asyncio.run(_until_current(url, check, time.monotonic() + wait))


async def _until_current(url: str, check: bool, deadline: float) -> None:
    import asyncpg
    from sqlalchemy.exc import DBAPIError

    from core.db.engine import Db
    from core.db.migrate import is_current
    from core.db.migrate import migrate as upgrade

    async with Db.open(url, application="migrate", pool_size=1, patient=not check) as db:
        while True:
            try:
                if not check:
                    return await upgrade(db)
                if await is_current(db):
                    return None
                problem, action = "the database has not this version's schema", "run: berth migrate"
            except (OSError, TimeoutError, asyncpg.PostgresError, DBAPIError) as error:
                state = getattr(getattr(error, "orig", error), "sqlstate", None)
                if state is not None and not state.startswith(_NOT_YET):
                    raise
                problem, action = f"the database does not answer: {error or 'no answer in time'}", None
            if time.monotonic() >= deadline:
                raise Unreachable(problem, action)
            await asyncio.sleep(_ASK_EVERY)
