"""How much memory the agent holds, and whether the kernel killed something of it for memory."""

import contextlib
import os
from pathlib import Path

from agent_image.agent import cgroup, family


def lower_own_score() -> None:
    """Make this process the last of the agent's to be killed for memory, where the machine allows it."""
    with contextlib.suppress(OSError):  # only a privileged parent could; the browser's raised score keeps the order
        Path("/proc/self/oom_score_adj").write_text("0", encoding="ascii")


def oom_kills() -> int | None:
    """How often the kernel killed a process of our memory cgroup; None where that cannot be read."""
    for path in cgroup.controller_files("memory", ("memory.events", "memory.oom_control")):
        if (found := cgroup.counter(path, "oom_kill")) is not None:
            return found
    return None


class OomWatch:
    """Notices kills for memory since it was made, or since it was last reset."""

    def __init__(self) -> None:
        self._seen = oom_kills()

    def rose(self) -> bool:
        now = oom_kills()
        return now is not None and now > (self._seen or 0)

    def reset(self) -> None:
        self._seen = oom_kills()


def used() -> int:
    """Bytes held by this process and all its descendants: proportional where readable, else without shared pages."""
    total = 0
    for pid in [os.getpid(), *family.descendants()]:
        total += _proportional(pid) or _private(pid)
    return total


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Pss:"))
    except (OSError, ValueError):
        return 0


def _private(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            fields = statm.read().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return 0
