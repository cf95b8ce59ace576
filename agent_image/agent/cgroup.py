"""The cgroup that the agent runs in: where its counters are, and what it has used by them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Consumed:
    """Since the cgroup was made; None where that cannot be read."""

    cpu_seconds: float | None
    peak_memory_bytes: int | None


def places(controller: str, cgroups: Path = CGROUPS, own: Path = OWN) -> Iterator[Path]:
    """Folders that may hold our counters: cgroup v2, then v1, by our own path and as a container sees it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield cgroups / path.lstrip("/")
        elif controller in controllers.split(","):
            yield cgroups / controllers / path.lstrip("/")
            yield cgroups / controller / path.lstrip("/")
    yield cgroups
    yield cgroups / controller


def consumed(cgroups: Path = CGROUPS, own: Path = OWN) -> Consumed:
    """Of the whole cgroup, so only where it is the agent's alone."""
    micros = _first(controller_files("cpu", ("cpu.stat",), cgroups, own), "usage_usec")
    nanos = None if micros is not None else _first(controller_files("cpuacct", ("cpuacct.usage",), cgroups, own))
    cpu = micros / 1e6 if micros is not None else nanos / 1e9 if nanos is not None else None
    peak = _first(controller_files("memory", ("memory.peak", "memory.max_usage_in_bytes"), cgroups, own))
    return Consumed(cpu_seconds=None if cpu is None else round(cpu, 3), peak_memory_bytes=peak)


def controller_files(
    controller: str, names: tuple[str, ...], cgroups: Path = CGROUPS, own: Path = OWN
) -> Iterator[Path]:
    for place in places(controller, cgroups, own):
        for name in names:
            yield place / name


def _first(files: Iterator[Path], key: str | None = None) -> int | None:
    """The number in the first of the files that has one: its whole text, or what stands behind `key`."""
    for path in files:
        if (found := counter(path, key)) is not None:
            return found
    return None


def counter(path: Path, key: str | None = None) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        name, _, value = line.rpartition(" ")
        if name == (key or "") and value.isdigit():
            return int(value)
    return None
