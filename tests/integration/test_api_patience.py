"""Callers that connect and then say nothing, or not all of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

import api.bodies
import api.patience
from tests.fixtures.live import LiveStage

# A caller who is served has to be faster than this.
SHORT = 2.0


@asynccontextmanager
async def said(live: LiveStage, *words: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a replica on which so much was said."""
    url = httpx2.URL(live.replicas[0])
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for word in words:
            writer.write(word.encode())
            await writer.drain()
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("GET /health HTTP/1.1\r\nHost: x\r\n",),
        ("GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",),
    ],
    ids=["nothing", "half of a head", "half of the next head"],
)
async def test_connection_without_a_whole_head_is_closed(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(api.patience, "HEAD_SECONDS", SHORT)
    async with said(live, *words) as (reader, _):
        # All that comes, up to the end.
        answered = await asyncio.wait_for(reader.read(), 20)
    assert answered.count(b"HTTP/1.1 200 ") == (1 if len("".join(words).split("\r\n\r\n")) > 1 else 0)


async def test_connection_is_closed_on_which_a_body_that_was_answered_already_goes_on(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.patience, "HEAD_SECONDS", SHORT)
    head = "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    async with said(live, head) as (reader, writer):
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 404 ")
        closed = asyncio.create_task(reader.read())
        async with asyncio.timeout(20):
            while not closed.done():
                # Often enough for the server not to take the connection for an idle one.
                with contextlib.suppress(ConnectionError):
                    writer.write(b"x")
                    await writer.drain()
                await asyncio.wait({closed}, timeout=0.5)


async def test_body_that_does_not_come_is_refused_in_words(live: LiveStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.bodies, "BODY_SECONDS", SHORT)
    user = await live.user("ann")
    token = live.bearer(user)["Authorization"]
    head = (
        "POST /api/projects/shop/start-agent HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {token}\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
    )
    async with said(live, head, '{"tem') as (reader, _):
        answered = await asyncio.wait_for(reader.read(), 20)
    assert answered.startswith(b"HTTP/1.1 422 ")
    assert b'"body_stalled"' in answered


async def test_answer_that_takes_longer_than_a_head_may_is_not_cut_off(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.patience, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(api.bodies, "BODY_SECONDS", 0.5)
    agent = await live.agent(await live.user("ann"))

    async def slowly(_: object) -> dict[str, bool]:
        await asyncio.sleep(1.5)
        return {"done": True}

    async with live.fake(agent, execute=slowly).online():
        told = await live.execute(agent, {"command": "state"})
    assert told.json()["result"] == {"done": True}


async def test_socket_that_pings_without_reading_is_cut_off(live: LiveStage) -> None:
    token = live.bearer(await live.user("ann"))["Authorization"]
    head = (
        f"GET /ws/events HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    # Masked, as a client's frames must be, and each as long as a ping may be.
    pings = (b"\x89\xfd" + bytes(4) + bytes(125)) * 500
    async with said(live, head) as (reader, writer):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        with pytest.raises(ConnectionError):
            # Many times what the machine itself keeps between two programs.
            await sent(writer, pings, times=1000)


async def sent(writer: asyncio.StreamWriter, data: bytes, *, times: int) -> None:
    for _ in range(times):
        writer.write(data)
        await asyncio.wait_for(writer.drain(), 20)
