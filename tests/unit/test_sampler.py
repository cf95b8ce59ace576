"""What is made of a look: which CPU use counts, and the room that it tells by template."""

from core.domain.templates import Resources, Template, asking_alike
from core.domain.thresholds import Fit, Measure, Thresholds, over
from core.runtime.base import ClusterCapacity
from temporal.sampler import CpuWindow, fits_of, load_of


def test_a_burst_of_cpu_does_not_shut_the_door_and_lasting_use_does() -> None:
    window, capacity = CpuWindow(120), ClusterCapacity(fits=4, agents=0)

    def shut_after(now: float, percent: float) -> bool:
        return bool(over(load_of(capacity, window.mean(now, percent)), Thresholds()))

    assert not any(shut_after(now, 100) for now in range(0, 60, 5))
    assert not any(shut_after(now, 10) for now in range(60, 125, 5))
    assert any(shut_after(now, 100) for now in range(125, 250, 5))
    assert not shut_after(400, 10)
    assert not shut_after(900, 100), "nobody has looked for a while: one sample is a burst"


def test_door_that_cpu_has_shut_does_not_open_because_a_worker_has_just_begun_to_look() -> None:
    window, capacity, before = CpuWindow(120), ClusterCapacity(fits=4, agents=0), frozenset({Measure.CPU})

    def shut_after(now: float, percent: float) -> bool:
        return bool(over(load_of(capacity, window.mean(now, percent, whole=False)), Thresholds(), before))

    assert all(shut_after(now, 95) for now in range(0, 60, 5))
    assert not shut_after(300, 20)
    assert CpuWindow(120).mean(0, None, whole=False) is None


def test_room_is_told_by_template_only_where_templates_ask_for_more_than_one_thing() -> None:
    large = Template(resources=Resources(cpu=1, memory_mib=4096))
    known = {"default": Template(), "other": Template(image="localhost/other:1"), "large": large}
    seen = ClusterCapacity(fits=28, agents=0, fits_of={"default": 28, "large": 3})
    assert fits_of(seen, asking_alike(known), known) == (
        Fit(templates=("default", "other"), more=28, cpu=0.5, memory_mib=512),
        Fit(templates=("large",), more=3, cpu=1, memory_mib=4096),
    )
    del known["large"]
    assert fits_of(seen, asking_alike(known), known) == ()
    one_size = ClusterCapacity(fits=28, agents=0)
    assert fits_of(one_size, [("default",), ("large",)], known) == ()
