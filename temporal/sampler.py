"""Measures how much room each cluster has, often enough that a decision never rests on an old look."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.db.engine import Db
from core.db.repositories import clusters, queue
from core.domain.templates import Pool
from core.errors import RuntimeFault, Unavailable
from core.runtime.base import AgentRuntime, ClusterCapacity
from core.settings import Settings, Thresholds
from temporal.lives import Lives

log = structlog.get_logger()


class Sampler:
    """Looks at every cluster, stores what it saw, and wakes the pools when there may be more room than before."""

    def __init__(self, settings: Settings, runtimes: Mapping[str, AgentRuntime], db: Db, lives: Lives) -> None:
        self._settings = settings
        self._runtimes = runtimes
        self._db = db
        self._lives = lives
        self._cpu: dict[str, CpuWindow] = {}

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._settings.timings.snapshot_seconds)

    async def look(self) -> None:
        """Once over all clusters; one that cannot be measured keeps its last look until that is too old to be used."""
        seen: set[tuple[str, str]] = set()
        for pool in self._settings.all_pools().values():
            if (pool.cluster, pool.runtime) in seen:
                continue
            seen.add((pool.cluster, pool.runtime))
            try:
                await self._measure(pool)
            except (RuntimeFault, Unavailable, SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("sample.failed", cluster=pool.cluster, error=type(error).__name__)

    async def _measure(self, pool: Pool) -> None:
        capacity = await self._runtimes[pool.runtime].capacity()
        window = self._cpu.setdefault(pool.cluster, CpuWindow(self._settings.thresholds.cpu_window_seconds))
        capacity = capacity.model_copy(update={"cpu_percent": window.mean(time.monotonic(), capacity.cpu_percent)})
        async with self._db.transaction() as session:
            grew = await clusters.record_look(
                session,
                pool.cluster,
                datetime.now(UTC),
                total=None if capacity.fits is None else capacity.fits + capacity.agents,
                choked=choked(capacity, self._settings.thresholds),
                detail=capacity.model_dump(exclude={"fits"}),
            )
            waiting = await queue.somebody_waits(session, pool.cluster) if grew else []
        for name in waiting:
            await self._lives.wake_pool(name)


class CpuWindow:
    """Mean of CPU use over the last `seconds`; None until that long has been seen: a burst must not shut the door."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self._samples: deque[tuple[float, float]] = deque()

    def mean(self, now: float, percent: float | None) -> float | None:
        """Take in a sample and return the mean."""
        if percent is None:
            return None
        self._began = now if self._began is None else self._began
        self._samples.append((now, percent))
        while self._samples[0][0] < now - self._seconds:
            self._samples.popleft()
        if now - self._began < self._seconds:
            return None
        return sum(sample for _, sample in self._samples) / len(self._samples)


def choked(capacity: ClusterCapacity, thresholds: Thresholds) -> bool:
    """Over a threshold, or no node to place anything on. What is not measured does not count."""
    over = (
        (capacity.cpu_percent, thresholds.cpu_percent),
        (capacity.memory_percent, thresholds.memory_percent),
        (capacity.disk_percent, thresholds.disk_percent),
    )
    return capacity.schedulable_nodes == 0 or any(is_ is not None and is_ > limit for is_, limit in over)
