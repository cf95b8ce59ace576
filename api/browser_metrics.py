"""Browsers that took the place of one that had ended, in Prometheus' words."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from core.domain.wire import BrowserEnd


class BrowsersCollector(Collector):
    """Shows what others count in `reopened`."""

    def __init__(self, reopened: Mapping[BrowserEnd, int]) -> None:
        self._reopened = reopened

    def collect(self) -> Iterator[Metric]:
        told = CounterMetricFamily(
            "berth_browsers_reopened", "Browsers that took the place of one that ended", labels=["end"]
        )
        for end in BrowserEnd:
            told.add_metric([end.value], self._reopened.get(end, 0))
        yield told
