"""A local stack whose worker is replaced, by `kill -9`, with that of another release."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from core.dev.stack import Stack, StackOptions
from tests.chaos.release import BEFORE, RELEASE
from tests.fixtures.stack import LocalStack, eventually
from workflows.options import SEARCH_ATTRIBUTES


class Rolling(LocalStack):
    """Begins with the release before."""

    def __init__(self, folder: Path, environment: dict[str, str], release: Path) -> None:
        super().__init__(folder, environment)
        self._release = release

    async def roll(self, release: str) -> None:
        """Kill the worker; the one that comes back is of `release`."""
        self._release.write_text(release)
        killed = self.kill("worker")

        async def another() -> bool:
            try:
                return self.pid("worker") != killed
            except (KeyError, ValueError):
                return False

        await eventually(another, f"a worker of {release}")
        ready = self.folder / "run" / "worker.ready"

        async def working() -> bool:
            return ready.exists() and ready.read_text() == str(self.pid("worker"))

        await eventually(working, f"the worker of {release} to take work")


@contextlib.asynccontextmanager
async def rolling(folder: Path, **settings: str) -> AsyncIterator[Rolling]:
    """Simulated agents. `settings` are BERTH_ variables without the prefix."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("BERTH_")}
    given = {f"BERTH_{name}": value for name, value in settings.items()}
    release = folder.with_name("release")
    release.write_text(BEFORE)
    options = StackOptions(
        folder,
        runtime="memory",
        environment={**given, RELEASE: str(release)},
        search_attributes={key.name: "Keyword" for key in SEARCH_ATTRIBUTES},
    ).on_any_ports()
    stack = Stack(options, lambda _: None)
    usual = stack._own_parts
    program = [sys.executable, "-m", "tests.chaos.release", "worker"]
    stack._own_parts = lambda env: [
        replace(part, argv=program) if part.name == "worker" else part for part in usual(env)
    ]
    try:
        await stack.start()
        environment = {**mine, **given, "BERTH_DATA_DIR": str(folder), "BERTH_POOL__RUNTIME": "memory"}
        one = Rolling(folder, environment, release)
        await one.whole()
        yield one
        await one.sound()
    finally:
        await stack.stop()
