"""The control groups of a node: one below the root of each hierarchy, in version 1 and 2 of cgroups alike."""

import signal
import time
from contextlib import suppress
from pathlib import Path

from core import launch
from core.dev.failure import CannotStart

_VANISH_SECONDS = 10.0  # a group is busy until its last process has been reaped
_UNIFIED_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io")


def hierarchies() -> list[Path]:
    """Where each hierarchy is mounted."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return list(dict.fromkeys(Path(fields[1]) for fields in mounts if fields[2] in {"cgroup", "cgroup2"}))


def make(path: str) -> None:
    """Make the group `path` (like `berth-1/node-1`) in every hierarchy, ready to hold pods."""
    for top in hierarchies():
        group = top
        for name in Path(path).parts:
            parent, group = group, group / name
            _delegate(parent)
            group.mkdir(exist_ok=True)
            _fill_cpuset(parent, group)


def remove(path: str) -> None:
    """Kill all in the group and remove it and all below it, in every hierarchy; success when it is not there.

    Raises `CannotStart` when a process lives on in one of them.
    """
    deadline = time.monotonic() + _VANISH_SECONDS
    left = [top / path for top in hierarchies()]
    while left := [group for group in left if not _removed(group)]:
        if time.monotonic() > deadline:
            raise CannotStart(f"Processes still live in {', '.join(map(str, left))}.")
        _kill(path)
        time.sleep(0.02)


def join(path: str) -> None:
    """Move this process into the group, in every hierarchy."""
    for top in hierarchies():
        (top / path / "cgroup.procs").write_text("0")


def await_empty(path: str, seconds: float) -> None:
    """Return when no process is in the group or below it. Raises `CannotStart`."""
    deadline = time.monotonic() + seconds
    while members := _members(path):
        if time.monotonic() > deadline:
            raise CannotStart(f"Processes still live in {path}: {sorted(pid for pid, _ in members)}.")
        time.sleep(0.02)


def _kill(path: str) -> None:
    """Kill every process in the group and below it. Only what was put there dies, whoever its parent is now."""
    for pid, started in _members(path):
        launch.send_signal(pid, started, signal.SIGKILL)


def _members(path: str) -> set[tuple[int, int]]:
    """Pid and start time of each, read while it was a member."""
    found: set[tuple[int, int]] = set()
    for file in (file for top in hierarchies() for file in (top / path).rglob("cgroup.procs")):
        with suppress(OSError):
            for pid in map(int, file.read_text().split()):
                if (started := launch.start_time(pid)) is not None and str(pid) in file.read_text().split():
                    found.add((pid, started))
    return found


def _removed(group: Path) -> bool:
    if not group.is_dir():
        return True
    for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def _delegate(parent: Path) -> None:
    control = parent / "cgroup.subtree_control"
    if not control.is_file():
        return
    offered = set((parent / "cgroup.controllers").read_text().split()) & set(_UNIFIED_CONTROLLERS)
    for name in offered - set(control.read_text().split()):
        with suppress(OSError):  # one that cannot be handed down is missed by the kubelet, which says so better
            control.write_text(f"+{name}")


def _fill_cpuset(parent: Path, group: Path) -> None:
    # In version 1 a new group may use no processor at all until it is told which.
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = group / name
        if (parent / "cgroup.subtree_control").exists() or not file.is_file() or file.read_text().strip():
            continue
        file.write_text((parent / name).read_text())
