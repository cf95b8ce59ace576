"""What a pool has, has given and would need, as gauges: for dashboards, alerts and whatever adds machines."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge

from core.domain.admission import QueueReason, closed_by
from core.domain.room import Room

_CLOSED_BY = (QueueReason.PAUSED, QueueReason.CHOKED, QueueReason.DISK)


class PoolGauges:
    """Shows the pools of the latest look, and forgets those that it no longer has."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, told: str, *labels: str) -> Gauge:
            return Gauge(name, told, ["pool", *labels], registry=registry)

        self._wanted = gauge("berth_pool_agents_wanted", "Agents that hold a place or wait for one: what to scale by")
        self._starting = gauge("berth_pool_agents_starting", "Agents that have a place and are not usable yet")
        self._capacity = gauge("berth_pool_capacity", "Agents that the pool takes; missing while nobody has measured")
        self._closed = gauge("berth_pool_closed", "1 while nobody is let in, whatever is free", "reason")
        self._oldest = gauge("berth_queue_oldest_seconds", "How long the longest has waited; 0: nobody waits")

    def show(self, rooms: Mapping[str, Room], longest: Mapping[str, float]) -> None:
        """`longest`: of each pool in which somebody waits, for how many seconds the longest has."""
        for gauge in (self._wanted, self._starting, self._capacity, self._closed, self._oldest):
            gauge.clear()
        for pool, room in rooms.items():
            self._wanted.labels(pool).set(room.holders + room.waiting)
            self._starting.labels(pool).set(room.starts.now)
            self._oldest.labels(pool).set(longest.get(pool, 0.0))
            if room.capacity is not None:
                self._capacity.labels(pool).set(room.capacity)
            shut = closed_by(room)
            for reason in _CLOSED_BY:
                self._closed.labels(pool, reason.value).set(shut is reason)
            self._closed.labels(pool, QueueReason.NO_NODE.value).set(shut is None and room.refused)
