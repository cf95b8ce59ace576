"""`berth agents watch`: every event once, as it happens, through breaks of the connection."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
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
    async def to(cls, url: str) -> AsyncIterator["Line"]:
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
