"""What Postgres knows of clusters, in Prometheus' words: their last looks, and who was evicted."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily

from core.db.repositories.census import Measured
from core.domain.pressure import EvictReason


class ClusterMetrics:
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
