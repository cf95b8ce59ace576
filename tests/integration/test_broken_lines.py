"""Connections to the database whose other end is gone without a word, as when a firewall forgets them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy import make_url, text

from core.db import engine
from core.db.engine import Db
from tests.fakes.tcp_proxy import TcpProxy, tcp_proxy

_POOL = 4


@asynccontextmanager
async def filled(url: str, *, ask_first: bool) -> AsyncIterator[tuple[Db, TcpProxy]]:
    """A database with a pool full of connections that rest, and the line that they go by."""
    place = make_url(url)
    assert place.host is not None
    assert place.port is not None
    async with tcp_proxy(place.host, place.port) as line:
        behind = place.set(host="127.0.0.1", port=line.port).render_as_string(hide_password=False)
        async with Db.open(behind, application="test", pool_size=_POOL, ask_first=ask_first) as db:
            async with AsyncExitStack() as all_at_once:
                for _ in range(_POOL):
                    session = await all_at_once.enter_async_context(db.transaction())
                    await session.execute(text("SELECT 1"))
            assert line.connections == _POOL
            yield db, line


async def answered(db: Db) -> int:
    async with db.transaction() as session:
        return int(await session.scalar(text("SELECT 1")) or 0)


async def test_request_is_answered_though_all_connections_of_the_pool_are_half_open(database_url: str) -> None:
    async with filled(database_url, ask_first=True) as (db, line):
        line.freeze_open()
        assert await asyncio.gather(*(answered(db) for _ in range(_POOL))) == [1] * _POOL


async def test_worker_asks_a_connection_that_has_rested(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_RESTED_SECONDS", 0)
    async with filled(database_url, ask_first=False) as (db, line):
        line.freeze_open()
        assert await answered(db) == 1


async def test_one_statement_that_nobody_answers_is_the_last_on_all_such_connections(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_RESTED_SECONDS", 3600)
    monkeypatch.setattr(engine, "_COMMAND_SECONDS", 1)
    async with filled(database_url, ask_first=False) as (db, line):
        line.freeze_open()
        with pytest.raises(TimeoutError):
            await answered(db)
        for _ in range(_POOL):
            assert await answered(db) == 1
