"""What this machine has, what is in use, and how many more agents it would take."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from core.domain.sizes import Size
from core.domain.templates import MIB, Resources, Template
from core.errors import NeverSatisfiable
from core.runtime import cgroup
from core.runtime.base import ClusterCapacity

# For the system and Berth itself.
RESERVE = 0.10
_MIN_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Claim:
    """What a living agent asked for and what it holds now (bytes; None where nobody counts it)."""

    resources: Resources
    held: int | None
    agent_id: str = ""


class Machine:
    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._cores = len(psutil.Process().cpu_affinity())
        self._memory = min(psutil.virtual_memory().total, cgroup.memory_limit() or 1 << 62)
        psutil.cpu_percent(interval=None)
        self._looked = time.monotonic()
        self._cpu: float | None = None
        self._traffic = Traffic()

    def check(self, wanted: Resources) -> None:
        """Raises `NeverSatisfiable` when not even the empty machine would do."""
        if wanted.memory_mib * MIB > self._memory * (1 - RESERVE):
            raise NeverSatisfiable(
                f"a template asks for {wanted.memory_mib} MiB of memory, this machine has {self._memory // MIB} MiB"
            )
        if wanted.cpu > self._cores:
            raise NeverSatisfiable(f"a template asks for {wanted.cpu} cores, this machine has {self._cores}")

    def check_size(self, size: Size) -> None:
        """Raises `NeverSatisfiable` for limits beyond the machine itself."""
        if size.cpu > self._cores or size.memory_mib * MIB > self._memory:
            raise NeverSatisfiable(f"this machine has {self._cores} cores and {self._memory // MIB} MiB of memory")

    def capacity(self, claims: Iterable[Claim], wanted: Mapping[str, Template] | None = None) -> ClusterCapacity:
        """`fits` is of the first that is `wanted`."""
        living = list(claims)
        memory = psutil.virtual_memory()
        available = min(memory.available, self._memory)
        fits_of = {
            name: fits(each.resources, living, cores=self._cores, memory=self._memory, available=available)
            for name, each in (wanted or {"": Template()}).items()
        }
        return ClusterCapacity(
            fits=next(iter(fits_of.values())),
            fits_of=fits_of if wanted else {},
            agents=len(living),
            here=tuple(claim.agent_id for claim in living) if len(fits_of) > 1 else (),
            cpu_percent=self._cpu_percent(),
            memory_percent=memory.percent,
            disk_percent=psutil.disk_usage(str(self._disk)).percent,
            network_mbit=self._traffic.mbit(time.monotonic(), _carried()),
            memory_bytes=self._memory,
        )

    def _cpu_percent(self) -> float | None:
        """The mean since the last look; a look that comes too soon after it gets the same answer."""
        now = time.monotonic()
        if now - self._looked >= _MIN_LOOK_SECONDS:
            self._cpu = psutil.cpu_percent(interval=None)
            self._looked = now
        return self._cpu


class Traffic:
    """Bandwidth in use, from a counter of bytes that is read now and then."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._mbit: float | None = None

    def mbit(self, now: float, carried: int) -> float | None:
        """The mean since the last look; None at the first, and the same answer to a look that comes too soon."""
        if self._last is None:
            self._last = now, carried
        before, bytes_before = self._last
        if now - before >= _MIN_LOOK_SECONDS:
            # A counter that fell back was begun anew.
            self._mbit = max(0, carried - bytes_before) * 8 / (now - before) / 1e6
            self._last = now, carried
        return self._mbit


def _carried() -> int:
    """Bytes that went over this machine's interfaces, either way; what it says to itself is no bandwidth."""
    interfaces = psutil.net_io_counters(pernic=True)
    return sum(each.bytes_sent + each.bytes_recv for name, each in interfaces.items() if name != "lo")


def fits(wanted: Resources, living: list[Claim], *, cores: int, memory: int, available: int) -> int:
    """How many more agents like `wanted` find place. What the living asked for and do not hold yet is theirs.

    By cores: requests may add up to all of them. By memory: a tenth of the machine stays free.
    """
    by_cpu = (cores - sum(claim.resources.cpu for claim in living)) / wanted.cpu
    unclaimed = sum(max(0, claim.resources.memory_mib * MIB - claim.held) for claim in living if claim.held is not None)
    by_memory = (available - memory * RESERVE - unclaimed) / (wanted.memory_mib * MIB)
    return max(0, int(min(by_cpu, by_memory) + 1e-9))
