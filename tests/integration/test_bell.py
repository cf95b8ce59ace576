"""The bell that wakes the senders of notices, when the ear it rings by is broken."""

import asyncio
from typing import Any

import pytest

from core.db.engine import Db
from core.db.notify import Listener
from temporal.notices import Bell


async def test_bell_ends_with_what_broke_its_listener(
    db: Db, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(_: Listener) -> None:
        raise LookupError("made to break")

    monkeypatch.setattr(Listener, "_listen", breaks)
    client: Any = None  # nothing is due, so nobody is woken
    async with asyncio.timeout(10) as limit:
        with pytest.raises(LookupError, match="made to break"):
            await Bell(client, db, database_url, tick_seconds=0.05).run()
    assert not limit.expired()
