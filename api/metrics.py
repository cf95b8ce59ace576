"""What this process counts, and what Postgres counts for all of them, in Prometheus' words."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.browser_metrics import BrowsersCollector
from api.cluster_metrics import ClusterMetrics
from api.gauges import PoolGauges
from api.outbox_metrics import OutboxMetrics
from core.db.engine import Db
from core.db.repositories import census, clusters, notices, tallies, upkeep
from core.db.repositories.tallies import BOUNDS, REST, Measure, Tally
from core.domain.lifecycle import LIVING
from core.domain.waits import Came
from core.domain.wire import BrowserEnd
from core.settings import Settings

log = structlog.get_logger()

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
_COUNT_SECONDS = 3


_HISTOGRAMS = {
    Measure.WAITED: ("berth_queue_waited_seconds", "In line until a slot was granted"),
    Measure.ERROR: ("berth_queue_wait_error_minutes", "Between the wait told on arrival and the real one, either way"),
}


class WaitsCollector(Collector):
    """Waits of all who were granted a slot, whichever worker granted it: every API process shows the same numbers."""

    def __init__(self) -> None:
        self.known: Sequence[Tally] = ()

    def collect(self) -> Iterator[Metric]:
        pools = sorted({tally.pool for tally in self.known})
        for measure, (name, help_text) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(name, help_text, labels=["pool"])
            for pool in pools:
                found = {tally.bucket: tally for tally in self._of(pool, measure)}
                buckets, so_far = [], 0
                for bound in [*(str(bound) for bound in BOUNDS[measure]), REST]:
                    so_far += found[bound].count if bound in found else 0
                    buckets.append((bound, so_far))
                family.add_metric([pool], buckets, sum(tally.total for tally in found.values()))
            yield family
        came = CounterMetricFamily(
            "berth_queue_wait_foretold", "Waits against the range told on arrival", labels=["pool", "came"]
        )
        for pool in pools:
            counts = {tally.bucket: tally.count for tally in self._of(pool, Measure.RANGE)}
            for each in Came:
                came.add_metric([pool, each.value], counts.get(each.value, 0))
        yield came

    def _of(self, pool: str, measure: Measure) -> list[Tally]:
        return [tally for tally in self.known if tally.pool == pool and tally.measure is measure]


class Metrics:
    """One registry an app, so that two apps in one process do not count each other's requests."""

    def __init__(self, reopened: Mapping[BrowserEnd, int]) -> None:
        """`reopened`: browsers that agents replaced, counted by whoever hears of it."""
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
        self._silent = Gauge("berth_agents_silent", "Running agents that have not been heard", registry=self._registry)
        self._waits = WaitsCollector()
        self._registry.register(self._waits)
        self._registry.register(BrowsersCollector(reopened))
        self._database = Gauge("berth_database_up", "1 when the counts are of now", registry=self._registry)
        self._temporal = Gauge("berth_temporal_up", "1 when the Temporal server answered", registry=self._registry)
        self._undecided = Counter(
            "berth_starts_undecided", "Starts that no worker decided in time", registry=self._registry
        )
        self._clusters = ClusterMetrics(self._registry)
        self._pools = PoolGauges(self._registry)
        self._outbox = OutboxMetrics(self._registry)

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the path's template, never the path: labels must stay few."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def undecided(self) -> None:
        """A start was answered `pending`: no worker has decided on it yet."""
        self._undecided.inc()

    def answered(self, checks: Mapping[str, str]) -> None:
        """What the parts behind this process answered, as `/ready` shows it. The database speaks for itself below."""
        self._temporal.set(checks.get("temporal") == "ok")

    async def render(self, db: Db, settings: Settings) -> bytes:
        now, most = datetime.now(UTC), settings.queue.max
        try:
            async with asyncio.timeout(_COUNT_SECONDS), db.transaction() as session:
                counts, measured = await census.living(session), await census.measured(session)
                waits, longest = await tallies.all_of(session), await census.longest_waits(session, now)
                backlogs = await notices.backlogs(session)
                heard = await upkeep.heard_channels(session, settings.timings.silent_after)
                pools = settings.all_pools().items()
                rooms = {name: await clusters.room(session, name, pool, now, most) for name, pool in pools}
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            # The process's own numbers are wanted most of all when the database is away.
            log.warning("metrics.no_counts", kind=type(error).__name__)
            self._database.set(0)
            return generate_latest(self._registry)
        self._database.set(1)
        self._waits.known = waits
        self._agents.clear()
        for pool in {pool for pool, _ in counts}:
            for state in sorted(LIVING):
                self._agents.labels(pool, state.value).set(counts.get((pool, state), 0))
        # One that no pool names any more is measured by nobody, and old for ever.
        named = {pool.cluster for _, pool in pools}
        self._silent.set(sum(silent for silent, _ in heard.values()))
        self._clusters.tell({cluster: seen for cluster, seen in measured.items() if cluster in named}, now)
        self._pools.show(rooms, longest)
        self._outbox.tell(backlogs)
        return generate_latest(self._registry)
