"""All processes of one agent: found however they hide, and ended without a rest."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core import launch
from core.runtime.cgroup import Group


class StillThere(Exception):
    """Some process outlived SIGKILL for longer than we wait (it hangs in the kernel); the text names them."""


@dataclass(frozen=True)
class Crew:
    """How the processes of an attempt are known: by group, by account, or by descent and environment."""

    agent_id: str
    attempt: int
    group: Group
    uid: int | None
    main: tuple[int, int] | None = None

    async def end(self, seconds: float) -> None:
        """Kill all of them and return when none is left. Raises `StillThere`."""
        deadline = time.monotonic() + seconds
        pause = 0.005
        while left := self.living():
            self.group.kill()
            for pid, started in left:
                with contextlib.suppress(PermissionError):
                    launch.send_signal(pid, started, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise StillThere(f"processes {', '.join(str(pid) for pid, _ in left)} do not end")
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 2)

    def living(self) -> list[tuple[int, int]]:
        """Pid and start time of each; zombies do not count."""
        found = self.group.pids() - {0, os.getpid()}
        if self.uid is not None:
            found.update(_of_account(self.uid))
        else:
            found.update(self._of_ours())
        named = [(pid, started) for pid in sorted(found) if (started := launch.start_time(pid)) is not None]
        return named

    def _of_ours(self) -> set[int]:
        """Without an account of its own, an agent's processes are its descendants and those with its environment."""
        marks = (f"AGENT_ID={self.agent_id}".encode(), f"AGENT_ATTEMPT={self.attempt}".encode())
        children: dict[int, list[int]] = {}
        found: set[int] = set()
        for pid in _pids():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(pid)
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if all(mark in environment for mark in marks):
                    found.add(pid)
        if self.main is not None and launch.is_same_process(*self.main):
            found.add(self.main[0])
        waiting = list(found)
        while waiting:
            born = children.get(waiting.pop(), [])
            waiting += [pid for pid in born if pid not in found]
            found.update(born)
        return found - {os.getpid()}


def _of_account(uid: int) -> Iterator[int]:
    # Not by the owner of /proc/PID: that is root for a process that may not be dumped, as Chromium's are.
    for pid in _pids():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            ids = status.partition("\nUid:")[2].partition("\n")[0].split()
            if str(uid) in ids:
                yield pid


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
