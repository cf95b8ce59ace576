"""Adopts what agents leave behind: the supervisor is a subreaper, so a dead agent's descendants become its children."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

_PAUSE_SECONDS = 0.05


class Orphans:
    """Reaps adopted children that ended, and kills those that live on.

    Agents adopt their own orphans, so whatever reaches us belongs to an agent whose main process is dead. `mains` are
    the children that somebody else waits for.
    """

    def __init__(self, mains: Callable[[], set[int]]) -> None:
        self._mains = mains
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop.add_signal_handler(signal.SIGCHLD, self._notice)

    def stop(self) -> None:
        self._loop.remove_signal_handler(signal.SIGCHLD)
        if self._due is not None:
            self._due.cancel()

    def adopted(self) -> set[int]:
        """Our children that nobody waits for."""
        return _children() - self._mains()

    def _notice(self) -> None:
        # A dying agent sends many of these; one look serves them all.
        if self._due is None:
            self._due = self._loop.call_later(_PAUSE_SECONDS, self._look)

    def _look(self) -> None:
        self._due = None
        for pid in self.adopted():
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
                    os.kill(pid, signal.SIGKILL)


def _children() -> set[int]:
    found: set[int] = set()
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in children.read_text().split())
    return found
