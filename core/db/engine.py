"""The database as every part opens it: one async engine with limits, and transactions as sessions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

STATEMENT_TIMEOUT_MS = 15_000
IDLE_IN_TRANSACTION_MS = 15_000


class Db:
    """An engine and its sessions. `transaction()` commits at the end of its block and rolls back on any exception."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        # Shares the pool. For one statement that is a transaction by itself: two round trips less.
        alone = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._single = async_sessionmaker(alone, expire_on_commit=False)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, application: str, pool_size: int = 10, ask_first: bool = True, patient: bool = False
    ) -> AsyncIterator[Self]:
        """`ask_first` False saves a round trip a transaction; for callers that are tried again when it died.

        `patient`: a statement may take as long as it needs, for what reads or rewrites whole tables.
        """
        engine = create_async_engine(
            async_url(url),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            # A server that was killed leaves dead connections in the pool.
            pool_pre_ping=ask_first,
            connect_args={
                "async_creator_fn": _connected,
                "timeout": 5,
                "command_timeout": None if patient else 20,
                "server_settings": {
                    "application_name": f"berth-{application}",
                    "statement_timeout": "0" if patient else str(STATEMENT_TIMEOUT_MS),
                    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
                    "timezone": "UTC",
                },
            },
        )
        try:
            yield cls(engine)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def single(self) -> AsyncIterator[AsyncSession]:
        """A session in which every statement commits by itself: for a read, or a write in one statement."""
        async with self._single() as session:
            yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        async with self._sessions() as session, session.begin():
            yield session


async def _connected(*args: Any, **options: Any) -> Any:
    """asyncpg's connection. That none can be made is a `ConnectionError` or `TimeoutError`, whatever stood in the way:

    no such name, no way there, no such socket and several of these at once are an `OSError` like that of any file.
    """
    try:
        return await asyncpg.connect(*args, **options)
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise ConnectionError(*error.args) from error


def async_url(url: str) -> str:
    """`url` with the asyncpg driver, whatever driver it named."""
    return make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def plain_url(url: str) -> str:
    """`url` for asyncpg itself."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
