"""Speed and size of the local stack."""

import asyncio
import statistics
from pathlib import Path

import psutil

from tests.bench.bare import bare_workflows
from tests.bench.figures import Figures
from tests.bench.load import Board, cpu_seconds, crowd_of, lifecycles, percentile, stopwatch
from tests.fixtures.stack import LocalStack, local_stack

AT_ONCE = 40


class LocalBench:
    def __init__(self, figures: Figures, quick: bool) -> None:
        self.note = figures.note
        self._scale = 0.3 if quick else 1.0

    def _count(self, full: int) -> int:
        return max(5, round(full * self._scale))

    async def run(self, scratch: Path) -> None:
        await self._memory(scratch / "memory")
        await self._process(scratch / "process")

    async def _memory(self, folder: Path) -> None:
        async with local_stack(folder):
            pass
        with stopwatch() as took:
            stack_up = local_stack(folder, DATABASE__POOL_SIZE="20")
            stack = await stack_up.__aenter__()
        self.note("berth up to ready, second start", f"{took[0]:.1f} s", "<= 6 s", took[0] <= 6)
        try:
            await self._throughput(stack)
            await self._answers(stack)
            await self._rest(stack)
        finally:
            await stack_up.__aexit__(None, None, None)

    async def _throughput(self, stack: LocalStack) -> None:
        count = self._count(200)
        crowd = await crowd_of(stack, 2 * count)
        address = str(stack.about["temporal"])
        await bare_workflows(address, "warm", 30, AT_ONCE)
        await lifecycles(crowd, range(10), AT_ONCE)
        rates: dict[str, list[float]] = {"bare": [], "lives": []}
        for turn in range(2):
            rates["bare"].append(await bare_workflows(address, f"bare{turn}", count, AT_ONCE))
            half = range(10 + turn * (count // 2), 10 + (turn + 1) * (count // 2))
            rates["lives"].append(await lifecycles(crowd, half, AT_ONCE))
        bare, lives = statistics.mean(rates["bare"]), statistics.mean(rates["lives"])
        self.note("bare workflow of three activities", f"{bare:.1f}/s")
        self.note("lives through HTTP, memory", f"{lives:.1f}/s")
        self.note("lives against bare workflows", f"{lives / bare:.2f} x", ">= 0.6 x", lives / bare >= 0.6)
        self.note("answers that were pending at first", str(crowd.pending), "0", crowd.pending == 0)
        await crowd.http.aclose()

    async def _answers(self, stack: LocalStack) -> None:
        count = self._count(100)
        crowd = await crowd_of(stack, count)
        seconds: list[float] = []
        started: list[str] = []
        for number in range(count):
            with stopwatch() as took:
                agent_id = await crowd.start(number)
            seconds.append(took[0])
            # One in flight: neither this one's way to running nor its stop may compete with the next answer.
            await crowd.reaches(number, agent_id, "running")
            started.append(agent_id)
        middle, slow = percentile(seconds, 50) * 1000, percentile(seconds, 99) * 1000
        self.note("start-agent answer, p50", f"{middle:.0f} ms", "<= 60 ms", middle <= 60)
        self.note("start-agent answer, p99", f"{slow:.0f} ms", "<= 150 ms", slow <= 150)
        for number, agent_id in enumerate(started):
            await crowd.stop(number, agent_id)
        await crowd.http.aclose()

    async def _rest(self, stack: LocalStack) -> None:
        crowd = await crowd_of(stack, 200)
        agents = [await crowd.start(number) for number in range(200)]
        board = Board(crowd)
        await asyncio.gather(*(board.until(agent_id, "running") for agent_id in agents))
        await board.close()
        pids = {name: int(pid) for name, pid in stack.about["pids"].items()}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        await asyncio.sleep(30)
        used = {name: (cpu_seconds(pid) - before[name]) / 30 * 100 for name, pid in pids.items()}
        ours = {name: used[name] for name in ("api", "worker", "host")}
        memory = {name: psutil.Process(pids[name]).memory_info().rss / 2**20 for name in ("api", "worker", "host")}
        parts = ", ".join(f"{name} {value:.1f}" for name, value in used.items())
        all_ours = sum(ours.values())
        self.note("200 running agents at rest", f"{all_ours:.1f} % of a core ({parts})", "< 5 %", all_ours < 5)
        both = memory["api"] + memory["worker"]
        self.note("API and worker with 200 agents", f"{both:.0f} MiB", "< 350 MiB", both < 350)
        for number, agent_id in enumerate(agents):
            await crowd.stop(number, agent_id)
        await crowd.http.aclose()

    async def _process(self, folder: Path) -> None:
        async with local_stack(folder, "process", POOL__CAPACITY="1", THRESHOLDS__CPU_PERCENT="100") as stack:
            crowd = await crowd_of(stack, 6)
            usable: list[float] = []
            gone: list[float] = []
            memory: list[float] = []
            for number in range(6):
                with stopwatch() as took:
                    agent_id = await crowd.start(number)
                    await crowd.reaches(number, agent_id, "running")
                usable.append(took[0])
                await asyncio.sleep(5)
                memory.append(_pss(stack.pid("host")))
                with stopwatch() as took:
                    await crowd.stop(number, agent_id)
                    await crowd.reaches(number, agent_id, "terminated")
                gone.append(took[0])
            middle = percentile(usable[1:], 50)
            self.note("process: request to usable, p50", f"{middle:.2f} s", "<= 2.5 s", middle <= 2.5)
            middle = percentile(gone[1:], 50)
            self.note("process: stop without grace to ended, p50", f"{middle:.2f} s", "<= 1.5 s", middle <= 1.5)
            size = statistics.median(memory[1:])
            self.note("process: memory of one agent", f"{size:.0f} MiB PSS", "<= 450 MiB", size <= 450)
            await crowd.http.aclose()


def _pss(host: int) -> float:
    """Proportional memory of everything below the host supervisor, in MiB."""
    return sum(child.memory_full_info().pss for child in psutil.Process(host).children(recursive=True)) / 2**20
