"""Brings the database to this version's schema; safe to run by several processes at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from core.db.engine import Db

# Any number will do as long as it is ours alone: "bert" in ASCII.
_LOCK = 0x62657274


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


async def migrate(db: Db, revision: str = "head") -> None:
    """Upgrade to `revision` under an advisory lock; a second caller waits and finds the work done.

    `db` has to be a patient one wherever tables may be large, or another caller slow.
    """
    async with db.engine.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        # Who waits for a table makes everybody else wait behind it: rather try again.
        await connection.execute(text("SET lock_timeout = '5s'"))
        await connection.commit()
        try:
            await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), revision))
            await connection.commit()
        finally:
            await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
            await connection.commit()


async def is_current(db: Db) -> bool:
    """Whether the schema is this version's or a later one's. Changes nothing."""
    async with db.engine.connect() as connection:
        return await connection.run_sync(_is_current)


def _is_current(connection: Connection) -> bool:
    ours = ScriptDirectory.from_config(alembic_config(connection))
    there = MigrationContext.configure(connection).get_current_heads()
    known = {script.revision for script in ours.walk_revisions()}
    # A revision that we do not know was made after us: whoever made it keeps the schema fit for us until we are gone.
    return bool(there) and (set(there) == set(ours.get_heads()) or not set(there) <= known)
