"""How soon it goes on after `kill -9`: lives that one of two workers carried."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core.dev.probe import announces
from core.dev.supervise import Part, running
from core.runtime.host.address import host_folder, socket_path
from tests.bench.figures import Figures
from tests.bench.load import Crowd, crowd_of, percentile, stopwatch
from tests.fixtures.stack import LocalStack, local_stack

_LIVES = 20
# When in their starts the worker is killed.
_MOMENTS = [0.05, 0.1, 0.2, 0.3, 0.5]


class RecoveryBench:
    def __init__(self, figures: Figures, quick: bool) -> None:
        self.note = figures.note
        self._moments = _MOMENTS[1:2] if quick else _MOMENTS

    async def run(self, scratch: Path) -> None:
        room = {"POOL__CAPACITY": str(_LIVES), "THRESHOLDS__CPU_PERCENT": "100"}
        async with (
            local_stack(scratch / "recovery", **room) as stack,
            _another_worker(stack, scratch / "another"),
        ):
            crowd = await crowd_of(stack, _LIVES)
            usual = [await self._usable(crowd, None) for _ in self._moments]
            killed = [await self._usable(crowd, moment) for moment in self._moments]
            await crowd.http.aclose()
        whole = percentile(usual, 50)
        late = max(killed) - whole
        value = f"{late:.1f} s at most, {percentile(killed, 50) - whole:.1f} s p50 ({whole:.1f} s undisturbed)"
        name = f"{_LIVES} starts, one of two workers killed in their midst: all usable later by"
        self.note(name, value, "<= 5 s", late <= 5)

    async def _usable(self, crowd: Crowd, moment: float | None) -> float:
        """Seconds until all that are asked for at once are usable, the worker killed after a moment."""
        with stopwatch() as took:
            starting = asyncio.gather(*(crowd.start(number) for number in range(_LIVES)))
            if moment is not None:
                await asyncio.sleep(moment)
                crowd.stack.kill("worker")
            agents = await starting
            await asyncio.gather(*(crowd.reaches(*each, "running") for each in enumerate(agents)))
        await crowd.stack.whole()
        for number, agent_id in enumerate(agents):
            await crowd.stop(number, agent_id)
        await asyncio.gather(*(crowd.reaches(*each, "terminated") for each in enumerate(agents)))
        return took[0]


@asynccontextmanager
async def _another_worker(stack: LocalStack, folder: Path) -> AsyncIterator[None]:
    """One more, beside that of the stack; `folder` is its own, but the host is the same."""
    about, ready = stack.about, folder / "run" / "worker.ready"
    ready.parent.mkdir(parents=True)
    host_folder(folder).mkdir(parents=True)
    (host_folder(folder) / "host.sock").symlink_to(socket_path(stack.folder).absolute())
    environment = stack.environment | {
        "BERTH_DATABASE__URL": str(about["database"]),
        "BERTH_TEMPORAL__ADDRESS": str(about["temporal"]),
        "BERTH_DATA_DIR": str(folder),
        "BERTH_POOL__RUNTIME": str(about["runtime"]),
    }

    async def is_ready(pid: int) -> bool:
        return announces(ready, pid)

    argv = [sys.executable, "-m", "api.cli", "worker"]
    async with running(Part("another worker", argv, environment, is_ready), folder / "worker.log"):
        yield
