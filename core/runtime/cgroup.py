"""Control groups of agents, version 1 and 2: a limit, a counter, and a list of all that belongs to an agent.

Everything is best effort: what the machine or our rights do not allow is left out, and `Group` says so by None.
"""

import contextlib
import os
import shlex
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CONTROLLERS = ("memory", "pids")
# Of version 1 and of version 2.
_LIMITS = ("memory.limit_in_bytes", "memory.max")


@dataclass(frozen=True)
class _Hierarchy:
    """A mounted tree; `controllers` is empty for version 2, `here` is our own folder in it."""

    controllers: frozenset[str]
    here: Path
    top: Path


class Cgroups:
    """The groups of one supervisor, under a folder of its own in each hierarchy."""

    def __init__(self, label: str) -> None:
        """Claim the folders called `label`. What is in them is a dead supervisor's: killed and removed."""
        self._bases = [base for hierarchy in _hierarchies() if (base := _claim(hierarchy, label)) is not None]
        for base in self._bases:
            for folder in [path for path in base.iterdir() if path.is_dir()]:
                group = Group([folder])
                group.kill()
                group.remove()

    def make(self, name: str, *, memory_bytes: int, processes: int) -> "Group":
        folders = []
        for base in self._bases:
            folder = base / name
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True)
                folders.append(folder)
                for limit in _LIMITS:
                    _write(folder / limit, memory_bytes)
                _write(folder / "memory.oom.group", 0)
                _write(folder / "pids.max", processes)
        return Group(folders)

    def close(self) -> None:
        for base in self._bases:
            with contextlib.suppress(OSError):
                base.rmdir()


class Group:
    """One agent's group: the same name in each hierarchy that we may write."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = list(folders)

    def enter(self, argv: list[str]) -> list[str]:
        """`argv`, begun inside the group. The shell enters itself and then becomes the program."""
        if not self._folders:
            return argv
        doors = " ".join(shlex.quote(str(folder / "cgroup.procs")) for folder in self._folders)
        script = f'for door in {doors}; do echo $$ 2>/dev/null > "$door"; done; ulimit -c 0; exec "$@"'
        return ["/bin/sh", "-c", script, "enter", *argv]

    def limit_memory(self, limit: int) -> str | None:
        """Give it another limit, in bytes; why not, in a sentence, when it cannot be."""
        held = self._unreclaimable()
        if held is not None and held > limit:
            # Version 2 would kill something for that, version 1 refuses.
            return f"it uses {held >> 20} MiB right now"
        # Either only the file of the version at hand is there; the other write finds nothing.
        written = [_write(folder / name, limit) for folder in self._folders for name in _LIMITS]
        if any(written):
            return None
        return "this machine does not let Berth limit the memory of agents" if held is None else "it needs more now"

    def _unreclaimable(self) -> int | None:
        """What it holds beside the page cache that the kernel takes back by itself, in bytes."""
        held = self.memory_bytes()
        if held is None:
            return None
        cached = self._counter("inactive_file", "memory.stat") or 0
        return max(0, held - cached)

    def pids(self) -> set[int]:
        found: set[int] = set()
        for folder in self._folders:
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (folder / "cgroup.procs").read_text().split())
        return found

    def kill(self) -> None:
        """Kill all that is in it, and let nothing new be born there."""
        for folder in self._folders:
            _write(folder / "pids.max", 0)
            _write(folder / "cgroup.kill", 1)
        for pid in self.pids() - {0, os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Succeeds once it is empty; until then it stays."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def memory_bytes(self) -> int | None:
        return self._number("memory.current", "memory.usage_in_bytes")

    def peak_memory_bytes(self) -> int | None:
        return self._number("memory.peak", "memory.max_usage_in_bytes")

    def oom_kills(self) -> int:
        """How often the kernel killed something here for memory."""
        return self._counter("oom_kill", "memory.events", "memory.oom_control") or 0

    def cpu_seconds(self) -> float | None:
        micros = self._counter("usage_usec", "cpu.stat")
        if micros is not None:
            return micros / 1e6
        nanos = self._number("cpuacct.usage")
        return None if nanos is None else nanos / 1e9

    def _number(self, *names: str) -> int | None:
        for text in self._texts(names):
            if text.strip().isdigit():
                return int(text)
        return None

    def _counter(self, key: str, *names: str) -> int | None:
        for text in self._texts(names):
            for line in text.splitlines():
                word, _, value = line.partition(" ")
                if word == key and value.isdigit():
                    return int(value)
        return None

    def _texts(self, names: Iterable[str]) -> Iterable[str]:
        for name in names:
            for folder in self._folders:
                with contextlib.suppress(OSError):
                    yield (folder / name).read_text()


def memory_limit() -> int | None:
    """The lowest memory limit that our own group or one above it sets, in bytes; None when there is none."""
    lowest: int | None = None
    for hierarchy in _hierarchies():
        for folder in (hierarchy.here, *hierarchy.here.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with contextlib.suppress(OSError, ValueError):
                    value = int((folder / name).read_text())
                    lowest = value if lowest is None else min(lowest, value)
            if folder == hierarchy.top:
                break
    return lowest


def _claim(hierarchy: _Hierarchy, label: str) -> Path | None:
    """The folder `label` of this supervisor in the hierarchy, or None when it may not or need not have one."""
    if hierarchy.controllers:
        return _make(hierarchy.here / label)
    # Version 2 gives a group either processes or limits for its children. Ours has processes (us, at least) unless
    # it is the root, so the agents' folder stands beside it where it cannot stand in it.
    if _enable(hierarchy.here) or hierarchy.here == hierarchy.top:
        base = _make(hierarchy.here / label)
    else:
        base = _make(hierarchy.here.parent / label) or _make(hierarchy.here / label)
    if base is not None:
        _enable(base)
    return base


def _enable(folder: Path) -> bool:
    """Give the children of `folder` their own limits."""
    wanted = " ".join(f"+{name}" for name in _CONTROLLERS)
    return _write(folder / "cgroup.subtree_control", wanted)


def _make(folder: Path) -> Path | None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) and os.access(folder.parent / "cgroup.procs", os.W_OK) else None


def _hierarchies() -> list[_Hierarchy]:
    """The mounted trees that matter to us and our own place in them."""
    own: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                own[controller] = path
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            root, mount = before.split()[3:5]
            kind, _, options = after.split(" ", 2)
            names = frozenset(options.split(",")) & {"memory", "pids", "cpuacct"} if kind == "cgroup" else frozenset()
            if kind not in {"cgroup", "cgroup2"} or (kind == "cgroup" and not names):
                continue
            path = own.get(next(iter(names), ""), "/")
            with contextlib.suppress(ValueError):
                found.append(_Hierarchy(names, Path(mount) / Path(path).relative_to(root), Path(mount)))
    return found


def _write(file: Path, value: object) -> bool:
    """Files of other versions and controllers are not there; what is there may be closed to us."""
    try:
        with file.open("r+") as opened:
            opened.write(f"{value}")
    except OSError:
        return False
    return True
