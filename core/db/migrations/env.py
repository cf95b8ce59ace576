"""Alembic's entry: runs migrations over the connection that `core.db.migrate` hands it, or over the configured URL."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from core.db.engine import Db
from core.db.models import Base
from core.settings import Settings


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=Base.metadata, compare_type=True, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


async def _run_configured() -> None:
    url = Settings().database.url
    if url is None:
        raise SystemExit("set BERTH_DATABASE__URL")
    async with (
        Db.open(url.get_secret_value(), application="migrate", pool_size=1) as db,
        db.engine.connect() as connection,
    ):
        await connection.run_sync(_run)


connection = context.config.attributes.get("connection")
if isinstance(connection, Connection):
    _run(connection)
else:
    asyncio.run(_run_configured())
