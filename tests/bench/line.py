"""A long line on a whole stack: what it costs at rest, how soon a slot is passed on, how soon a thousand are told."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import asyncpg
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from websockets.asyncio.client import ClientConnection, connect

from tests.bench.figures import Figures
from tests.bench.load import Crowd, cpu_seconds, crowd_of, percentile
from tests.fixtures.stack import LocalStack, eventually, local_stack
from workflows.options import AGENT_ID

_WATCHING = 1_000
_LONG = 10_000
_RELEASES = 25
_REST_SECONDS = 60
_DIGESTED_SECONDS = 20
_AT_ONCE = 50
_TOLD_SECONDS = 30
# A task queue that nobody works on: who only waits costs Temporal no more than being there.
_NOWHERE = "nobody"
# Behind all who really wait.
_FILL = (
    "INSERT INTO users (user_id) SELECT 'far' || n FROM generate_series(1, {count}) AS n",
    "INSERT INTO projects (project_id) SELECT 'far' || n FROM generate_series(1, {count}) AS n",
    "INSERT INTO agents (agent_id, user_id, project_id, workflow_id, template, pool, cluster, runtime, tier, state,"
    " order_tier, order_at, created_at, last_activity_at)"
    " SELECT 'ag-far' || n, 'far' || n, 'far' || n, 'agent/far' || n || '/far' || n, 'default', 'default',"
    " pools.cluster, 'memory', 'free', 'queued', 4, now(), now(), now()"
    " FROM generate_series(1, {count}) AS n, (SELECT cluster FROM agents LIMIT 1) AS pools",
)
_IN_LINE = (
    "SELECT agent_id FROM agents WHERE state = 'queued'"
    " ORDER BY order_front, order_tier, order_fair, order_at, agent_id"
)


@dataclass(frozen=True)
class Waiter:
    """One of the crowd, and the agent it asked for."""

    number: int
    agent_id: str


class LineBench:
    def __init__(self, figures: Figures, quick: bool) -> None:
        self.note = figures.note
        self._scale = 0.1 if quick else 1.0

    def _count(self, full: int) -> int:
        return max(2 * _RELEASES, round(full * self._scale))

    async def run(self, scratch: Path) -> None:
        async with local_stack(scratch / "line", POOL__CAPACITY="1", QUEUE__MAX=str(2 * _LONG)) as stack:
            watching = self._count(_WATCHING)
            crowd = await crowd_of(stack, watching + 2)
            line = await _lined_up(crowd)
            await self._told(crowd, line)
            few = await _used(stack)
            async with _filled(stack, self._count(_LONG) - watching):
                began = time.perf_counter()
                await _digested(stack)
                self.note("the server of the runs at rest after the fill", f"{time.perf_counter() - began:.0f} s")
                self._rest(few, await _used(stack))
                await self._releases(crowd, line)
            for waiter in line[_RELEASES:]:
                await crowd.stop(waiter.number, waiter.agent_id)
            await crowd.http.aclose()

    async def _told(self, crowd: Crowd, line: list[Waiter]) -> None:
        """The first of the line goes away, and everybody else has another place."""
        gone = line.pop(1)
        async with _listening(crowd, line[1:]) as sockets:
            began = time.perf_counter()
            await crowd.stop(gone.number, gone.agent_id)
            seconds = [at - began for at in await asyncio.gather(*(_told_at(each) for each in sockets))]
        last = max(seconds)
        name = f"a new place told to {len(sockets)} connected users, p50 and last"
        self.note(name, f"{percentile(seconds, 50):.2f} s, {last:.2f} s", "< 2 s", last < 2)

    def _rest(self, few: dict[str, float], many: dict[str, float]) -> None:
        """What the long line costs beyond the short one: the servers' own rest is not ours."""
        more = {name: many[name] - few[name] for name in many}
        parts = ", ".join(f"{name} {few[name]:.1f} to {many[name]:.1f}" for name in many)
        whole = sum(more.values())
        self.note(f"{self._count(_LONG)} waiting at rest", f"{whole:+.1f} % of a core ({parts})", "< 25 %", whole < 25)

    async def _releases(self, crowd: Crowd, line: list[Waiter]) -> None:
        """Whoever holds the slot goes, one after the other, and the next in line has it each time."""
        for waiter in line[:_RELEASES]:
            await crowd.reaches(waiter.number, waiter.agent_id, "running")
            await crowd.stop(waiter.number, waiter.agent_id)
        last = line[_RELEASES]
        await crowd.reaches(last.number, last.agent_id, "running")
        connection = await asyncpg.connect(str(crowd.stack.about["database"]))
        rows = await connection.fetch("SELECT agent_id, kind, at FROM events WHERE agent_id IS NOT NULL")
        await connection.close()
        at = {(row["agent_id"], row["kind"]): row["at"] for row in rows}
        waits = [
            (at[after.agent_id, "agent.admitted"] - at[before.agent_id, "agent.terminated"]).total_seconds() * 1000
            for before, after in pairwise(line[: _RELEASES + 1])
        ]
        middle = percentile(waits, 50)
        self.note("release to the next one's admitted, p50", f"{middle:.0f} ms", "<= 60 ms", middle <= 60)


async def _used(stack: LocalStack) -> dict[str, float]:
    """Percent of a core that each part takes while nobody asks for anything."""
    pids = {name: int(pid) for name, pid in stack.about["pids"].items()}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    await asyncio.sleep(_REST_SECONDS)
    return {name: (cpu_seconds(pid) - before[name]) / _REST_SECONDS * 100 for name, pid in pids.items()}


async def _digested(stack: LocalStack) -> None:
    """Return when the server of the runs has done what so many new ones at once left it to do."""

    async def rests() -> bool:
        pid = int(stack.about["pids"]["temporal"])
        before = cpu_seconds(pid)
        await asyncio.sleep(_DIGESTED_SECONDS)
        return cpu_seconds(pid) - before < _DIGESTED_SECONDS / 4

    await eventually(rests, "the server of the runs to be at rest", patience=300)


async def _lined_up(crowd: Crowd) -> list[Waiter]:
    """One agent that runs, and all others behind it as they stand in line."""
    first = Waiter(0, await crowd.start(0))
    await crowd.reaches(0, first.agent_id, "running")
    gate = asyncio.Semaphore(_AT_ONCE)

    async def ask(number: int) -> Waiter:
        async with gate:
            return Waiter(number, await crowd.start(number))

    asked = {each.agent_id: each for each in await asyncio.gather(*(ask(number) for number in range(1, crowd.count)))}
    connection = await asyncpg.connect(str(crowd.stack.about["database"]))
    rows = await connection.fetch(_IN_LINE)
    await connection.close()
    return [first, *(asked[row["agent_id"]] for row in rows)]


@asynccontextmanager
async def _listening(crowd: Crowd, waiters: Iterable[Waiter]) -> AsyncIterator[list[ClientConnection]]:
    """The event sockets of all these, each with its first place told."""
    url = crowd.stack.url.replace("http", "ws") + "/ws/events"
    gate = asyncio.Semaphore(_AT_ONCE)
    async with contextlib.AsyncExitStack() as opened:

        async def listen(waiter: Waiter) -> ClientConnection:
            async with gate:
                headers = crowd.bearer(f"u{waiter.number}")
                socket = await opened.enter_async_context(connect(url, additional_headers=headers, proxy=None))
                await _told_at(socket)
                return socket

        yield list(await asyncio.gather(*(listen(waiter) for waiter in waiters)))


async def _told_at(socket: ClientConnection) -> float:
    """When the next word of a place came."""
    async with asyncio.timeout(_TOLD_SECONDS):
        while json.loads(await socket.recv())["kind"] != "agent.position_changed":
            pass
    return time.perf_counter()


@asynccontextmanager
async def _filled(stack: LocalStack, count: int) -> AsyncIterator[None]:
    """So many more in line, whose workflows wait as those of all others do."""
    connection = await asyncpg.connect(str(stack.about["database"]))
    client = await Client.connect(str(stack.about["temporal"]))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def begin(number: int) -> None:
        async with gate:
            await client.start_workflow(
                "AgentWorkflow",
                id=f"agent/far{number}/far{number}",
                task_queue=_NOWHERE,
                search_attributes=TypedSearchAttributes([SearchAttributePair(AGENT_ID, f"ag-far{number}")]),
            )

    await asyncio.gather(*(begin(number) for number in range(1, count + 1)))
    async with connection.transaction():
        for statement in _FILL:
            await connection.execute(statement.format(count=count))
    await connection.execute("VACUUM ANALYZE")
    try:
        yield
    finally:
        await connection.execute("DELETE FROM agents WHERE user_id LIKE 'far%'")
        await connection.close()

        async def end(number: int) -> None:
            async with gate:
                await client.get_workflow_handle(f"agent/far{number}/far{number}").terminate()

        await asyncio.gather(*(end(number) for number in range(1, count + 1)))
