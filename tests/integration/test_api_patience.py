"""Callers that connect and then say nothing, or not all of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

import api.bodies
import api.patience
from tests.fixtures.live import LiveStage, eventually

# A caller who is served has to be faster than this.
SHORT = 2.0
# As long as a body may be.
MOST = (1 << 20) - 1


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


def head_of(path: str, *headers: str, length: int) -> str:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *headers,
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""])


@pytest.mark.parametrize(
    ("path", "said_of_token"),
    [
        ("/api/projects/shop/start-agent", b"a bearer token is needed"),
        ("/agent-register", b"the agent's token is missing"),
        ("/agent-heartbeat", b"the agent's token is missing"),
    ],
)
async def test_nothing_is_read_of_a_body_for_somebody_who_shows_no_token(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch, path: str, said_of_token: bytes
) -> None:
    monkeypatch.setattr(api.bodies, "BODY_SECONDS", SHORT)
    async with said(live, head_of(path, length=MOST), '{"tem') as (reader, _):
        answered = await asyncio.wait_for(reader.read(), 20)
    assert answered.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nwww-authenticate: bearer\r\n" in answered.lower()
    assert b'"unauthenticated"' in answered
    assert said_of_token in answered


async def test_little_is_kept_of_a_body_whose_token_is_not_true(live: LiveStage) -> None:
    head = head_of("/api/projects/shop/start-agent", "Authorization: Bearer made-up", length=MOST)
    async with said(live, head, " " * api.bodies.UNCOUNTED_BYTES, " " * 1000) as (reader, _):
        answered = await asyncio.wait_for(reader.read(), 20)
    assert answered.startswith(b"HTTP/1.1 401 ")


async def test_who_holds_up_too_many_large_bodies_is_told_to_come_again_and_others_are_served(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.bodies, "MAX_HELD_BYTES_OF_ONE", 300_000)
    monkeypatch.setattr(api.bodies, "_REST_SECONDS", 0.1)
    ann, bob = [live.bearer(await live.user(name))["Authorization"] for name in ("ann", "bob")]
    large = " " * 200_000

    def begun(token: str) -> contextlib.AbstractAsyncContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return said(live, head_of("/api/projects/shop/start-agent", f"Authorization: {token}", length=MOST), large)

    async def whole(token: str, size: int) -> int:
        headers = {"Authorization": token, "Content-Type": "application/json"}
        url = f"{live.replicas[0]}/api/projects/shop/start-agent"
        return (await live.http.post(url, content=b"{}" + b" " * size, headers=headers)).status_code

    async with begun(ann) as (first, _), begun(ann) as (second, _):
        ends = [asyncio.create_task(each.read()) for each in (first, second)]
        done, held = await asyncio.wait(ends, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        answered = done.pop().result()
        assert answered.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: " in answered.lower()
        assert b'"too_many_requests"' in answered
        # 404: it was read, and there is no such project.
        assert await whole(ann, 100) == 404
        assert await whole(bob, 250_000) == 404
        for each in held:
            each.cancel()

    async def served() -> bool:
        return await whole(ann, 250_000) == 404

    await eventually(served)


async def test_body_that_does_not_come_is_refused_in_words(live: LiveStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.bodies, "BODY_SECONDS", SHORT)
    user = await live.user("ann")
    token = live.bearer(user)["Authorization"]
    head = head_of("/api/projects/shop/start-agent", f"Authorization: {token}", length=20)
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
