"""Which CPU use counts: the mean over a while, none before that."""

from core.domain.thresholds import Thresholds, over
from core.runtime.base import ClusterCapacity
from temporal.sampler import CpuWindow, load_of


def test_a_burst_of_cpu_does_not_shut_the_door_and_lasting_use_does() -> None:
    window, capacity = CpuWindow(120), ClusterCapacity(fits=4, agents=0)

    def shut_after(now: float, percent: float) -> bool:
        return bool(over(load_of(capacity, window.mean(now, percent)), Thresholds()))

    assert not any(shut_after(now, 100) for now in range(0, 60, 5))
    assert not any(shut_after(now, 10) for now in range(60, 125, 5))
    assert any(shut_after(now, 100) for now in range(125, 250, 5))
    assert not shut_after(400, 10)
