"""The database as every part opens it: one async engine with limits, and transactions as sessions."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import asyncpg
from sqlalchemy import event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

STATEMENT_TIMEOUT_MS = 15_000
IDLE_IN_TRANSACTION_MS = 15_000
# Longer than the server lets a statement go on: what is not answered by then is not there.
_COMMAND_SECONDS = 20.0
# How long a connection has to answer that it is there, and after how long a rest it is asked at the least.
_ANSWER_SECONDS = 3.0
_RESTED_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
# What comes of a question on a connection that is none any more. The third is the driver's word for one that it was
# still reading the server's farewell on.
_DEAD = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


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
        """`ask_first` False asks only a connection that has rested whether it still answers, which saves a round trip a
        transaction; for callers that are tried again when it died.

        `patient`: a statement may take as long as it needs, for what reads or rewrites whole tables.

        `url` may say behind its `?` what libpq knows of TLS: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
        """
        engine = create_async_engine(
            async_url(url),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            connect_args={
                "async_creator_fn": partial(_connected, plain_url(url)),
                "timeout": 5,
                "command_timeout": None if patient else _COMMAND_SECONDS,
                "server_settings": {
                    "application_name": f"berth-{application}",
                    "statement_timeout": "0" if patient else str(STATEMENT_TIMEOUT_MS),
                    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
                    "timezone": "UTC",
                },
            },
        )
        _distrust(engine, 0 if ask_first else _RESTED_SECONDS)
        try:
            yield cls(engine)
        finally:
            # Each that is dead would have its whole time to say goodbye.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
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


def _distrust(engine: AsyncEngine, rested_seconds: float) -> None:
    """Throw away all connections there are as soon as one that has rested for so long does not answer.

    A server that was killed leaves dead ones in the pool, and so does a way to it that broke without a word: each of
    those would hold up whoever takes it for as long as a statement may take.
    """

    @event.listens_for(engine.sync_engine, "checkin")
    def rest(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def take(connection: Any, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        since = record.info.get("rests_since")  # None: it was made just now
        if since is None or time.monotonic() - since < rested_seconds:
            return
        try:
            connection.run_async(_answers)
        except _DEAD as error:
            raise InvalidatePoolError(str(error)) from error

    @event.listens_for(engine.sync_engine, "handle_error")
    def broke(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, TimeoutError):
            context.invalidate_pool_on_disconnect = True


async def _answers(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT", timeout=_ANSWER_SECONDS)


async def _connected(url: str, **options: Any) -> Any:
    """asyncpg's connection, to where `url` says as asyncpg reads it.

    That none can be made is a `ConnectionError` or `TimeoutError`, whatever stood in the way: no such name, no way
    there, no such socket and several of these at once are an `OSError` like that of any file.
    """
    try:
        return await asyncpg.connect(url, **options)
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise ConnectionError(*error.args) from error


def async_url(url: str) -> str:
    """`url` with the asyncpg driver, whatever driver it named, and without its query: that is asyncpg's own to read."""
    return make_url(url).set(drivername="postgresql+asyncpg", query={}).render_as_string(hide_password=False)


def plain_url(url: str) -> str:
    """`url` for asyncpg itself, which takes `ssl`, as it is called for SQLAlchemy, for a setting of the server."""
    plain = make_url(url).set(drivername="postgresql")
    query = {"sslmode" if name == "ssl" else name: value for name, value in plain.query.items()}
    return plain.set(query=query).render_as_string(hide_password=False)
