"""A database that is reached by TLS: what the URL says of it holds for every connection, of the pool and of the ear."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import make_url, text

from core.db.engine import Db
from core.db.notify import Listener, Wake, notify
from tests.fakes.tls_front import TlsFront, tls_front
from tests.fixtures.receivers import self_signed


@pytest_asyncio.fixture
async def front(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[TlsFront, str, Path]]:
    """The way in, the URL by it without a word of TLS, and the certificate of `localhost`."""
    place = make_url(database_url)
    assert place.host is not None
    assert place.port is not None
    context, certificate = self_signed("localhost", tmp_path)
    async with tls_front(place.host, place.port, context) as there:
        yield there, place.set(host="localhost", port=there.port).render_as_string(hide_password=False), certificate


@pytest.mark.parametrize("words", ["sslmode=require", "ssl=require", "sslmode=verify-full&sslrootcert={certificate}"])
async def test_url_that_asks_for_tls_is_read_alike_by_the_pool_and_the_listener(
    front: tuple[TlsFront, str, Path], words: str
) -> None:
    there, url, certificate = front
    asked = f"{url}?{words.format(certificate=certificate)}"
    async with Db.open(asked, application="test") as db, Listener.open(asked) as listener:
        await listener.wait_connected(10)
        with listener.subscribe((Wake.EVENTS, "ann")) as subscription:
            subscription.heard()
            async with db.transaction() as session:
                assert await session.scalar(text("SELECT 1")) == 1
                await notify(session, Wake.EVENTS, "ann")
            assert await subscription.wait(10)
            while not subscription.heard():
                assert await subscription.wait(10)
    assert there.encrypted >= 2
    assert there.plain == 0


async def test_server_whose_certificate_is_not_the_one_named_is_refused(
    front: tuple[TlsFront, str, Path], tmp_path: Path
) -> None:
    _, url, _ = front
    (tmp_path / "other").mkdir()
    _, of_another = self_signed("localhost", tmp_path / "other")
    async with Db.open(f"{url}?sslmode=verify-full&sslrootcert={of_another}", application="test") as db:
        with pytest.raises(OSError, match="certificate verify failed"):
            async with db.transaction() as session:
                await session.execute(text("SELECT 1"))
