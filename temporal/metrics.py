"""The numbers of a worker: Temporal's own and ours, at one address for whoever scrapes."""

from collections.abc import Mapping
from functools import cache

import structlog
from temporalio.common import MetricCounter, MetricHistogramFloat, MetricMeter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from activities.ports import ORPHANS, RUNTIME_ERRORS, Meter, Unmetered
from activities.turns import FAILURES, RESTARTS, STATE_SECONDS, TRANSITIONS
from core.domain.orphans import OrphanKind
from core.errors import NeverSatisfiable, RuntimePermanent, RuntimeRetryable
from core.settings import Worker

log = structlog.get_logger()
_TOLD: Mapping[str, str] = {
    TRANSITIONS: "Changes of an agent's state that were written",
    STATE_SECONDS: "Seconds spent in a state, counted when it is left",
    FAILURES: "Failures of agents, restarted or not",
    RESTARTS: "Restarts of agents, also those that somebody ordered",
    ORPHANS: "What the reaper found that nobody owns",
    RUNTIME_ERRORS: "Calls of a runtime that failed, by the code of the error",
}
# From a slot granted at once to a day of work: 0.1 s to 24 h.
_BUCKETS = {
    STATE_SECONDS: (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400),
    # Temporal's own end at a second, and what is worth an alert is longer.
    "workflow_task_schedule_to_start_latency": (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
}
_SUFFIX = "_total"
# Known from the start, so that the first of them shows as an increase.
CODES = (RuntimeRetryable.code, RuntimePermanent.code, NeverSatisfiable.code)


def metered(settings: Worker) -> tuple[Runtime | None, Meter]:
    """What the worker's Temporal client runs on, and what its parts count with; None and nothing where nobody scrapes.

    It listens from here on, until the process ends. Raises ValueError when it cannot.
    """
    if settings.metrics_port is None:
        return None, Unmetered()
    try:
        runtime = Runtime(
            telemetry=TelemetryConfig(
                metrics=PrometheusConfig(
                    bind_address=settings.metrics_address(),
                    # It names all counters that way, so ours are made without.
                    counters_total_suffix=True,
                    durations_as_seconds=True,
                    unit_suffix=True,
                    histogram_bucket_overrides=_BUCKETS,
                ),
                attach_service_name=False,
            )
        )
    except ValueError as error:
        raise ValueError(f"BERTH_WORKER__METRICS_PORT: {error}") from error
    log.info("metrics.served", port=settings.metrics_port)
    meter = SdkMeter(runtime.metric_meter)
    for code in CODES:
        meter.count(RUNTIME_ERRORS, 0, code=code)
    for kind in OrphanKind:
        meter.count(ORPHANS, 0, kind=kind.value)
    return runtime, meter


class SdkMeter:
    """Counts beside Temporal's own numbers."""

    def __init__(self, meter: MetricMeter) -> None:
        self._meter = meter
        self._counter = cache(self._made_counter)
        self._histogram = cache(self._made_histogram)

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        self._counter(name).add(amount, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._histogram(name).record(value, labels)

    def _made_counter(self, name: str) -> MetricCounter:
        return self._meter.create_counter(name.removesuffix(_SUFFIX), _TOLD.get(name))

    def _made_histogram(self, name: str) -> MetricHistogramFloat:
        return self._meter.create_histogram_float(name, _TOLD.get(name))
