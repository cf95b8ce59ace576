"""`berth agents watch`: every event once, as it happens, through breaks of the connection."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

from api.live.feed import cursor_of
from tests.fixtures.terminal import Desk

Told = Callable[[Callable[[dict[str, Any]], bool]], Awaitable[dict[str, Any]]]


async def test_watch_tells_each_event_as_it_happens_until_it_is_interrupted(desk: Desk) -> None:
    async with desk.as_user("owner").running("agents", "watch", "--json", "--after", cursor_of(0)) as process:
        told = _lines(process)
        agent_id = await _first_event(desk, told)
        await desk.api.lives.run(agent_id)
        ready = await told(lambda event: event["kind"] == "agent.ready")
        assert (ready["agentId"], ready["state"]) == (agent_id, "running")
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 10)
    assert process.returncode == 0


async def test_watch_loses_nothing_when_the_connection_breaks(desk: Desk) -> None:
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(Line.to(desk.url))
        berth = desk.as_user("owner").given(API_URL=line.url)
        process = await stack.enter_async_context(berth.running("agents", "watch", "--json", "--after", cursor_of(0)))
        told = _lines(process)
        agent_id = await _first_event(desk, told)
        line.cut()
        await desk.api.lives.run(agent_id)
        await desk.api.lives.end(agent_id)
        line.mend()
        kinds: list[str] = []
        while not kinds or kinds[-1] != "agent.terminated":
            kinds.append((await told(lambda _: True))["kind"])
        assert kinds[-3:] == ["agent.ready", "agent.draining", "agent.terminated"]
        assert len(kinds) == len(set(kinds))


async def test_watch_goes_by_the_proxy_of_the_environment_and_not_to_loopback(desk: Desk) -> None:
    async with Tunnel.to(desk.url) as tunnel:
        proxied = desk.as_user("owner").beside(http_proxy=tunnel.url, https_proxy="", no_proxy="", NO_PROXY="")
        for url, asked in (("http://berth.invalid:8000", ["CONNECT berth.invalid:8000 HTTP/1.1"]), (desk.url, [])):
            watch = proxied.given(API_URL=url).running("agents", "watch", "--json", "--after", cursor_of(0))
            async with watch as process:
                await _first_event(desk, _lines(process))
            assert tunnel.asked == asked
            tunnel.asked.clear()


async def test_proxy_that_cannot_be_one_is_named_without_its_password(desk: Desk) -> None:
    berth = desk.as_user("owner").beside(http_proxy="http://ann:hunter22@proxy/path", no_proxy="", NO_PROXY="")
    said = await berth.given(API_URL="http://berth.invalid:8000")("agents", "watch")
    assert (said.code, "HTTP_PROXY" in said.line, "hunter22" in said.line) == (2, True, False)


def _lines(process: asyncio.subprocess.Process) -> Told:
    """Waits for the next event that fits."""

    async def told(fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            while line := await process.stdout.readline():
                event: dict[str, Any] = json.loads(line)
                if fits(event):
                    return event
        raise AssertionError("the watch ended")

    return told


async def _first_event(desk: Desk, told: Told) -> str:
    """Start an agent and wait until its start was told; returns its id."""
    agent_id: str = (await desk.api.start()).json()["agent"]["agentId"]
    await told(lambda event: event["kind"] == "agent.starting")
    return agent_id


class Line:
    """A connection between clients and a server that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._open: set[asyncio.StreamWriter] = set()
        self._down = False
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        parts = urlsplit(url)
        line = cls(parts.hostname or "", parts.port or 0)
        async with await asyncio.start_server(line._carry, "127.0.0.1", 0) as server:
            line.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield line
            line.cut()

    def cut(self) -> None:
        self._down = True
        for writer in self._open:
            writer.transport.abort()

    def mend(self) -> None:
        self._down = False

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._down:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(*self._to)
        self._open |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._open -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Tunnel(Line):
    """A proxy whose every tunnel leads to that server, and what it was asked for."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.asked: list[str] = []

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0])
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await super()._carry(reader, writer)
