"""Several parts together: each starts as soon as what it needs is ready, and stops before that does."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from core.dev.failure import CannotStart
from core.dev.logfile import LogFile
from core.dev.supervise import Part, Supervised


class Parts:
    """Runs `parts`, their output in files of `logs`. A name in `after` that is not among the parts counts as ready."""

    def __init__(
        self,
        parts: Sequence[Part],
        logs: Path,
        announce: Callable[[str], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._changed = changed
        self._supervised = {
            part.name: Supervised(part, LogFile(logs / f"{part.name}.log"), announce, self._pid_changed)
            for part in parts
        }
        self._ready = {name: asyncio.Event() for name in self._supervised}

    @property
    def pids(self) -> dict[str, int]:
        """The process of each part that has one just now."""
        return {name: each.pid for name, each in self._supervised.items() if each.pid is not None}

    async def start(self) -> None:
        """Start all and return when all are ready. Raises `CannotStart`; then, and when cancelled, call `stop`."""
        try:
            async with asyncio.TaskGroup() as group:
                for each in self._supervised.values():
                    group.create_task(self._start(each))
        except BaseExceptionGroup as several:
            # Not `except*`: on Python 3.11 that wraps what its body raises in one more group, which says nothing.
            refused, others = several.split(CannotStart)
            if refused is None or others is not None:
                raise
            # One that could not start is the reason; what was still starting was given up for it.
            raise refused.exceptions[0] from None

    async def stop(self) -> None:
        """Stop all, each after those that need it. Returns when every process is gone."""
        stopped = {name: asyncio.Event() for name in self._supervised}

        async def stop(each: Supervised) -> None:
            for name, other in self._supervised.items():
                if each.part.name in other.part.after:
                    await stopped[name].wait()
            try:
                await each.stop()
            finally:
                stopped[each.part.name].set()

        await asyncio.gather(*(stop(each) for each in self._supervised.values()))

    async def _start(self, each: Supervised) -> None:
        for name in each.part.after:
            if name in self._ready:
                await self._ready[name].wait()
        await each.start()
        self._ready[each.part.name].set()

    def _pid_changed(self, name: str, pid: int | None) -> None:
        self._changed()
