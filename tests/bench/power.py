"""Every part of a stack with many running agents is killed at once, as when the power goes, and all is begun again."""

import asyncio
import os
import signal
import time
from pathlib import Path

import asyncpg

from tests.bench.figures import Figures
from tests.bench.load import crowd_of
from tests.fixtures.stack import LocalStack, eventually, local_stack

_AGENTS = 500
_AT_ONCE = 25
_RUN = "SELECT count(*) FROM agents WHERE state = 'running'"
# Their machine lost them with its power, so each has begun anew.
_RUN_AGAIN = f"{_RUN} AND ready_at > to_timestamp($1)"


class PowerBench:
    def __init__(self, figures: Figures, quick: bool) -> None:
        self.note = figures.note
        self._agents = _AGENTS // 3 if quick else _AGENTS

    async def run(self, scratch: Path) -> None:
        folder, settings = scratch / "power", {"POOL__CAPACITY": str(self._agents)}
        async with local_stack(folder, **settings) as stack:
            crowd, gate = await crowd_of(stack, self._agents), asyncio.Semaphore(_AT_ONCE)

            async def start(number: int) -> None:
                async with gate:
                    await crowd.start(number)

            await asyncio.gather(*(start(number) for number in range(self._agents)))
            await _until(stack, _RUN, self._agents)
            await crowd.http.aclose()
            await _cut(stack)
        cut, began = time.time(), time.perf_counter()
        async with local_stack(folder, **settings) as stack:
            answers = time.perf_counter() - began
            await _until(stack, _RUN_AGAIN, self._agents, cut)
            whole = time.perf_counter() - began
        name = f"{self._agents} running agents whole again after every part was killed"
        self.note(name, f"{whole:.1f} s (the stack answers after {answers:.1f} s)", "<= 30 s", whole <= 30)


async def _until(stack: LocalStack, query: str, count: int, *values: float) -> None:
    connection = await asyncpg.connect(str(stack.about["database"]))

    async def reached() -> bool:
        return bool(await connection.fetchval(query, *values) == count)

    try:
        await eventually(reached, f"{count} agents", patience=300)
    finally:
        await connection.close()


async def _cut(stack: LocalStack) -> None:
    """`kill -9` of all there is, the supervisor first, so that it brings nothing back."""
    for pid in (stack.process.pid, *map(int, stack.about["pids"].values())):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # went with its parent
            continue
    await stack.process.wait()
