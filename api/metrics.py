"""What this process counts, and what Postgres counts for all of them, in Prometheus' words."""

import asyncio
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from api.cluster_metrics import ClusterMetrics
from core.db.engine import Db
from core.db.repositories import census
from core.domain.lifecycle import LIVING

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
        self._clusters = ClusterMetrics(self._registry)

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
