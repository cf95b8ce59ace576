"""What this process counts, and what Postgres counts for all of them, in Prometheus' words."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from sqlalchemy.exc import SQLAlchemyError

from core.db.engine import Db
from core.db.repositories import census
from core.db.repositories.census import Measured
from core.domain.lifecycle import LIVING
from core.domain.pressure import EvictReason

log = structlog.get_logger()

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
_COUNT_SECONDS = 3


class Metrics:
    """One registry an app, so that two apps in one process do not count each other's requests."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "berth_http_requests", "Requests answered", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "berth_http_request_seconds",
            "Until the first byte of the answer",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._agents = Gauge(
            "berth_agents", "Living agents by pool and state", ["pool", "state"], registry=self._registry
        )
        self._database = Gauge("berth_database_up", "1 when the counts are of now", registry=self._registry)
        self._clusters = _Clusters(self._registry)

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the path's template, never the path: labels must stay few."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    async def render(self, db: Db) -> bytes:
        try:
            async with asyncio.timeout(_COUNT_SECONDS), db.transaction() as session:
                counts, clusters = await census.living(session), await census.measured(session)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            # The process's own numbers are wanted most of all when the database is away.
            log.warning("metrics.no_counts", kind=type(error).__name__)
            self._database.set(0)
            return generate_latest(self._registry)
        self._database.set(1)
        self._agents.clear()
        for pool in {pool for pool, _ in counts}:
            for state in sorted(LIVING):
                self._agents.labels(pool, state.value).set(counts.get((pool, state), 0))
        self._clusters.tell(clusters, datetime.now(UTC))
        return generate_latest(self._registry)


class _Clusters:
    """What the last look at each cluster saw. A use that nobody measures has no line, rather than one of zero."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._age = self._gauge("berth_snapshot_age_seconds", "Since the cluster was last measured")
        self._choked = self._gauge("berth_cluster_choked", "1 while it is over a threshold and takes nobody")
        self._nodes = self._gauge("berth_cluster_nodes", "Machines that take agents now")
        self._uses = {
            "cpu_percent": self._gauge("berth_cluster_cpu_percent", "CPU in use, the mean of a while"),
            "memory_percent": self._gauge("berth_cluster_memory_percent", "Memory in use"),
            "disk_percent": self._gauge("berth_cluster_disk_percent", "Disk in use"),
            "network_mbit": self._gauge("berth_cluster_network_mbit", "Bandwidth in use, Mbit/s, both ways"),
        }
        # A counter in Postgres, so that it does not begin anew with this process, and all replicas say the same.
        self._evictions = CounterMetricFamily(
            "berth_evictions", "Agents evicted for room", labels=["cluster", "reason"]
        )
        registry.register(self)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, ["cluster"], registry=self._registry)

    def collect(self) -> Iterable[Metric]:
        yield self._evictions

    def tell(self, clusters: Mapping[str, Measured], now: datetime) -> None:
        evictions = CounterMetricFamily("berth_evictions", "Agents evicted for room", labels=["cluster", "reason"])
        for gauge in (self._age, self._choked, self._nodes, *self._uses.values()):
            gauge.clear()
        for cluster, seen in clusters.items():
            self._age.labels(cluster).set((now - seen.measured_at).total_seconds())
            self._choked.labels(cluster).set(seen.choked)
            if seen.look is not None:
                self._nodes.labels(cluster).set(seen.look.load.nodes)
                for name, gauge in self._uses.items():
                    if (value := getattr(seen.look.load, name)) is not None:
                        gauge.labels(cluster).set(value)
            for reason in EvictReason:
                evictions.add_metric([cluster, reason.value], seen.evictions.get(reason.value, 0))
        self._evictions = evictions
