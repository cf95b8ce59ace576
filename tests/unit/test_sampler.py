"""When a cluster counts as choked."""

from core.runtime.base import ClusterCapacity
from core.settings import Thresholds
from temporal.sampler import CpuWindow, choked


def test_a_burst_of_cpu_does_not_shut_the_door_and_lasting_use_does() -> None:
    window, capacity = CpuWindow(120), ClusterCapacity(fits=4, agents=0)

    def shut_after(now: float, percent: float) -> bool:
        seen = capacity.model_copy(update={"cpu_percent": window.mean(now, percent)})
        return choked(seen, Thresholds())

    assert not any(shut_after(now, 100) for now in range(0, 60, 5))
    assert not any(shut_after(now, 10) for now in range(60, 125, 5))
    assert any(shut_after(now, 100) for now in range(125, 250, 5))
    assert not shut_after(400, 10)


def test_what_is_not_measured_does_not_shut_the_door() -> None:
    assert not choked(ClusterCapacity(fits=4, agents=0), Thresholds())
    assert choked(ClusterCapacity(fits=4, agents=0, schedulable_nodes=0), Thresholds())
    assert choked(ClusterCapacity(fits=4, agents=0, memory_percent=91), Thresholds())
