"""What Postgres knows of notices, in Prometheus' words: what came of them, and what still waits."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily

from core.db.repositories.notices import Backlog
from core.domain.notices import Channel, Outcome


class OutboxMetrics:
    """Counted in Postgres, so that all replicas say the same and none begins anew."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tries = _no_tries()
        self._oldest = Gauge(
            "berth_outbox_oldest_seconds",
            "How long the oldest notice has been undelivered; 0: none is",
            ["channel"],
            registry=registry,
        )
        self._dead = Gauge(
            "berth_outbox_dead",
            "Notices given up, until they are replayed or forgotten",
            ["channel"],
            registry=registry,
        )
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        yield self._tries

    def tell(self, backlogs: Mapping[Channel, Backlog]) -> None:
        tries = _no_tries()
        for channel, backlog in backlogs.items():
            self._oldest.labels(channel.value).set(backlog.oldest_seconds)
            self._dead.labels(channel.value).set(backlog.dead)
            for outcome in Outcome:
                tries.add_metric([channel.value, outcome.value], backlog.outcomes.get(outcome.value, 0))
        self._tries = tries


def _no_tries() -> CounterMetricFamily:
    return CounterMetricFamily("berth_notices", "Tries to deliver a notice", labels=["channel", "outcome"])
