"""Measures how much room each cluster has, often enough that a decision never rests on an old look."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from activities.hearing import wake_pools
from activities.ports import Meter, Unmetered, note_runtime_error
from core.db.engine import Db
from core.db.repositories import channels, clusters, queue
from core.domain.templates import Pool, Template, asking_alike
from core.domain.thresholds import Fit, Load, Look, Measure, over
from core.errors import NeverSatisfiable, RuntimeFault, Unavailable
from core.runtime.base import AgentRuntime, ClusterCapacity
from core.settings import DEFAULT_POOL, Settings
from temporal.lives import Lives

log = structlog.get_logger()


class Sampler:
    """Looks at every cluster, stores what it saw, and wakes the pools when there may be more room than before."""

    def __init__(
        self,
        settings: Settings,
        runtimes: Mapping[str, AgentRuntime],
        db: Db,
        lives: Lives,
        meter: Meter | None = None,
    ) -> None:
        self._settings = settings
        self._meter = meter or Unmetered()
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
                note_runtime_error(self._meter, error)

    async def _measure(self, pool: Pool) -> None:
        runtime, limits = self._runtimes[pool.runtime], self._settings.thresholds
        known = self._templates_of(pool)
        alike, began = asking_alike(known), datetime.now(UTC)
        capacity = await runtime.capacity({names[0]: known[names[0]] for names in alike})
        began = capacity.looked_at or began
        too_large = await self._too_large(known, runtime)
        window = self._cpu.setdefault(pool.cluster, CpuWindow(limits.cpu_window_seconds))
        async with self._db.transaction() as session:
            # What shut the door before does so longer, also after this process was begun anew.
            before = await clusters.last_look(session, pool.cluster)
            shut = frozenset(each.measure for each in before.over) if before is not None else frozenset[Measure]()
            cpu = window.mean(time.monotonic(), capacity.cpu_percent, whole=Measure.CPU not in shut)
            load = load_of(capacity, cpu)
            if load.network_mbit is None:
                # Where the runtime cannot see it, the agents tell what went over their own networks.
                used = await channels.bandwidth_of(session, pool.cluster, datetime.now(UTC))
                load = load.model_copy(update={"network_mbit": used})
            fits = fits_of(capacity, alike, known)
            look = Look(
                agents=capacity.agents,
                load=load,
                limits=limits,
                over=over(load, limits, shut),
                too_large=too_large,
                fits=fits,
                seen=await clusters.seen(session, pool.cluster, capacity.here, began) if fits else {},
            )
            grew = await clusters.record_look(
                session,
                pool.cluster,
                capacity.looked_at or datetime.now(UTC),
                total=None if capacity.fits is None else capacity.fits + capacity.agents,
                choked=look.choked,
                detail=look.stored(),
            )
            waiting = await queue.somebody_waits(session, pool.cluster) if grew else []
        self._tell(pool.cluster, shut, look)
        await wake_pools(self._lives.wake_pool, waiting)

    async def _too_large(self, known: Mapping[str, Template], runtime: AgentRuntime) -> dict[str, str]:
        """Templates that the cluster could never run, each with why; what cannot be asked now is not known to be."""
        found: dict[str, str] = {}
        for name, template in known.items():
            try:
                await runtime.check(template)
            except NeverSatisfiable as error:
                found[name] = error.detail
            except RuntimeFault as error:
                log.debug("sample.template_not_checked", template=name, error=type(error).__name__)
        return found

    def _templates_of(self, pool: Pool) -> dict[str, Template]:
        """What starts in this cluster may ask for, the usual one first: the default pool's, else that of its first.

        The default pool also takes templates that no pool is made for.
        """
        pools = self._settings.all_pools()
        here = [pools[name].template for name in [DEFAULT_POOL, *sorted(pools)] if pools[name].cluster == pool.cluster]
        if pools[DEFAULT_POOL].cluster == pool.cluster:
            here += sorted(set(self._settings.templates) - {each.template for each in pools.values()})
        # A pool may be for one that is not there.
        there = {*self._settings.templates, "default"}
        return {name: self._settings.template(name) for name in here if name in there}

    def _tell(self, cluster: str, before: frozenset[Measure], look: Look) -> None:
        """Once a change: the door of a cluster shut, or opened again."""
        if look.choked and before != {each.measure for each in look.over}:
            log.warning("cluster.choked", cluster=cluster, over=[str(each) for each in look.over])
        elif before and not look.choked:
            log.info("cluster.recovered", cluster=cluster)


class CpuWindow:
    """Mean of CPU use over the last `seconds`; None until that long has been seen: a burst must not shut the door."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self._samples: deque[tuple[float, float]] = deque()

    def mean(self, now: float, percent: float | None, *, whole: bool = True) -> float | None:
        """Take in a sample and return the mean; of what there is when it need not be of the `whole` window.

        A door that is shut already opens for what was really seen, not because nobody has looked for long enough.
        """
        if percent is None:
            return None
        while self._samples and self._samples[0][0] < now - self._seconds:
            self._samples.popleft()
        if self._began is None or not self._samples:
            # The first ever, or the first after nobody could look for so long.
            self._began = now
        self._samples.append((now, percent))
        if whole and now - self._began < self._seconds:
            return None
        return sum(sample for _, sample in self._samples) / len(self._samples)


def fits_of(
    capacity: ClusterCapacity, alike: Sequence[tuple[str, ...]], templates: Mapping[str, Template]
) -> tuple[Fit, ...]:
    """Room by template; nothing where one number will do: all ask for the same, or the runtime counts in one size."""
    if len(alike) == 1 or not capacity.fits_of:
        return ()
    return tuple(
        Fit(
            templates=names,
            more=capacity.fits_of[names[0]],
            cpu=templates[names[0]].resources.cpu,
            memory_mib=templates[names[0]].resources.memory_mib,
        )
        for names in alike
        if names[0] in capacity.fits_of
    )


def load_of(capacity: ClusterCapacity, cpu_percent: float | None) -> Load:
    """What is in use, with the CPU's mean instead of its moment."""
    return Load(
        cpu_percent=cpu_percent,
        memory_percent=capacity.memory_percent,
        disk_percent=capacity.disk_percent,
        network_mbit=capacity.network_mbit,
        memory_bytes=capacity.memory_bytes,
        nodes=capacity.schedulable_nodes,
    )
