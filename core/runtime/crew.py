"""All processes of one agent: found however they hide, and ended without a rest."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core import launch
from core.runtime.cgroup import Group


class StillThere(Exception):
    """Some process outlived SIGKILL for longer than we wait (it hangs in the kernel); the text names them."""


@dataclass(frozen=True)
class Crew:
    """How the processes of an attempt are known: by group, by account, else by descent, environment and folder.

    `adopted` are processes that fell to us because their parents died, whichever agent they are of.
    """

    agent_id: str
    attempt: int
    group: Group
    uid: int | None
    work: Path
    main: tuple[int, int] | None = None
    adopted: Callable[[], set[int]] = set

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
            found.update(of_account(self.uid))
        else:
            found.update(self._of_ours())
        return [(pid, started) for pid in sorted(found) if (started := launch.start_time(pid)) is not None]

    def _of_ours(self) -> set[int]:
        """Without an account of its own, an agent is what descends from it, bears its name, or sits in its folder."""
        children: dict[int, list[int]] = {}
        found = self.adopted()
        for pid in _pids():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(pid)
            if self._is_marked(pid):
                found.add(pid)
        if self.main is not None and launch.is_same_process(*self.main):
            found.add(self.main[0])
        waiting = list(found)
        while waiting:
            born = children.get(waiting.pop(), [])
            waiting += [pid for pid in born if pid not in found]
            found.update(born)
        return found - {os.getpid()}

    def _is_marked(self, pid: int) -> bool:
        # What belongs to others, or may not be looked into, is not ours to end.
        with contextlib.suppress(OSError):
            if Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(self.work):
                return True
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return (
                f"AGENT_ID={self.agent_id}".encode() in environment
                and f"AGENT_ATTEMPT={self.attempt}".encode() in environment
            )
        return False


def of_account(uid: int) -> Iterator[int]:
    """Pids of all that runs under an account, in whichever of its four ids."""
    # Not by the owner of /proc/PID: that is root for a process that may not be dumped, as Chromium's are.
    for pid in _pids():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            ids = status.partition("\nUid:")[2].partition("\n")[0].split()
            if str(uid) in ids:
                yield pid


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
