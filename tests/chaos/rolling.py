"""A local stack whose worker is replaced, by `kill -9`, with that of another release."""

import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from core.dev.supervise import Part
from tests.chaos.release import BEFORE, RELEASE
from tests.chaos.supervised import supervised
from tests.fixtures.stack import LocalStack, eventually


class Rolling(LocalStack):
    """Begins with the release before."""

    def __init__(self, folder: Path, environment: dict[str, str], release: Path) -> None:
        super().__init__(folder, environment)
        self._release = release

    async def roll(self, release: str) -> None:
        """Kill the worker; the one that comes back is of `release`."""
        self._release.write_text(release)
        await self.replaced("worker", self.kill("worker"))
        ready = self.folder / "run" / "worker.ready"

        async def working() -> bool:
            return ready.exists() and ready.read_text() == str(self.pid("worker"))

        await eventually(working, f"the worker of {release} to take work")


@contextlib.asynccontextmanager
async def rolling(folder: Path, **settings: str) -> AsyncIterator[Rolling]:
    """Simulated agents. `settings` are BERTH_ variables without the prefix."""
    release = folder.with_name("release")
    release.write_text(BEFORE)
    program = [sys.executable, "-m", "tests.chaos.release", "worker"]

    def alter(part: Part) -> Part:
        return replace(part, argv=program) if part.name == "worker" else part

    async with supervised(folder, "memory", settings, {RELEASE: str(release)}, alter) as (_, environment):
        one = Rolling(folder, environment, release)
        await one.whole()
        yield one
        await one.sound()
