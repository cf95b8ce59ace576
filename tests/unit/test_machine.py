"""How many more agents a machine takes: by cores, by memory, and never fewer than none."""

from pathlib import Path

import pytest

from core.domain.templates import MIB, Resources, Template
from core.runtime.machine import Claim, Machine, Traffic, fits

GIB = 1024 * MIB
SMALL = Resources(cpu=0.5, memory_mib=512)


@pytest.mark.parametrize(
    ("living", "cores", "memory", "available", "expected"),
    [
        pytest.param([], 4, 64 * GIB, 60 * GIB, 8, id="cores decide"),
        pytest.param([], 64, 10 * GIB, 4 * GIB, 6, id="memory decides, a tenth of it stays free"),
        pytest.param([Claim(SMALL, 512 * MIB)] * 3, 4, 64 * GIB, 60 * GIB, 5, id="each agent takes its cores"),
        pytest.param(
            [Claim(SMALL, 0)] * 2, 64, 10 * GIB, 4 * GIB, 4, id="memory asked for and not yet taken is theirs"
        ),
        pytest.param([Claim(SMALL, 2 * GIB)] * 2, 64, 10 * GIB, 4 * GIB, 6, id="memory taken is in what is available"),
        pytest.param([Claim(SMALL, None)] * 2, 64, 10 * GIB, 4 * GIB, 6, id="memory nobody counts is, too"),
        pytest.param([Claim(Resources(cpu=3), 0)] * 2, 4, 64 * GIB, 60 * GIB, 0, id="more was given than there is"),
        pytest.param([], 4, 64 * GIB, 1 * GIB, 0, id="the reserve is gone already"),
    ],
)
def test_room_is_what_cores_and_memory_leave(
    living: list[Claim], cores: int, memory: int, available: int, expected: int
) -> None:
    assert fits(SMALL, living, cores=cores, memory=memory, available=available) == expected


def test_large_agents_are_counted_as_large() -> None:
    large = Resources(cpu=0.5, memory_mib=4096)
    sixteen = {"cores": 64, "memory": 16 * GIB, "available": 16 * GIB}
    assert (fits(SMALL, [], **sixteen), fits(large, [], **sixteen)) == (28, 3)


def test_machine_counts_in_what_is_asked_for_and_says_who_is_there(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    usual, small = machine.capacity([]), Template(resources=Resources(cpu=0.25, memory_mib=256))
    alone = machine.capacity([Claim(SMALL, None, "ag-1")], {"small": small})
    assert usual.fits_of == {}
    assert alone.here == (), "where there is one size, how many are there is enough"
    both = machine.capacity([Claim(SMALL, None, "ag-1")], {"small": small, "usual": Template()})
    assert both.fits == both.fits_of["small"] == alone.fits
    assert both.fits_of["usual"] <= both.fits_of["small"] // 2
    assert (both.agents, both.here) == (1, ("ag-1",))


def test_bandwidth_is_the_mean_between_two_looks_and_known_from_the_second_on() -> None:
    traffic = Traffic()
    assert traffic.mbit(100.0, 5_000_000) is None
    assert traffic.mbit(102.0, 30_000_000) == 100
    # Too soon to say anything new.
    assert traffic.mbit(102.5, 90_000_000) == 100
    assert traffic.mbit(104.0, 30_000_000) == 0
    # An interface came back and counts from nothing.
    assert traffic.mbit(106.0, 1_000) == 0
