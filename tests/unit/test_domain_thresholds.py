"""The door of a cluster: what shuts it, and that it does not flap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.thresholds import Fit, Load, Look, Measure, Over, Thresholds, look_of, opens_at, over

LIMITS = Thresholds()


def shut(load: Load, limits: Thresholds = LIMITS, before: frozenset[Measure] = frozenset()) -> set[Measure]:
    return {each.measure for each in over(load, limits, before)}


@pytest.mark.parametrize(
    ("load", "measure"),
    [
        (Load(cpu_percent=85.1), Measure.CPU),
        (Load(memory_percent=90.1), Measure.MEMORY),
        (Load(disk_percent=90.1), Measure.DISK),
        (Load(nodes=0), Measure.NODES),
    ],
)
def test_each_use_over_its_threshold_shuts_the_door_by_itself(load: Load, measure: Measure) -> None:
    assert shut(load) == {measure}


def test_the_threshold_itself_and_what_is_not_measured_shut_nothing() -> None:
    assert shut(Load(cpu_percent=85, memory_percent=90, disk_percent=90)) == set()
    assert shut(Load()) == set()


def test_network_shuts_the_door_only_where_somebody_set_a_threshold() -> None:
    busy = Load(network_mbit=900)
    assert shut(busy) == set()
    assert shut(busy, Thresholds(network_mbit=800)) == {Measure.NETWORK}
    assert [str(each) for each in over(busy, Thresholds(network_mbit=800))] == ["network 900 Mbit/s (limit 800 Mbit/s)"]


@pytest.mark.parametrize(("percent", "still"), [(89, True), (86, True), (85, False), (84, False)])
def test_door_opens_again_five_points_lower(percent: float, still: bool) -> None:
    before = frozenset({Measure.MEMORY})
    assert (shut(Load(memory_percent=percent), before=before) == before) is still
    # What another use has shut says nothing of this one.
    assert shut(Load(memory_percent=percent), before=frozenset({Measure.CPU})) == set()


def test_reason_tells_value_and_limit() -> None:
    assert over(Load(memory_percent=93.4), LIMITS) == (Over(measure=Measure.MEMORY, value=93.4, limit=90),)
    assert str(over(Load(memory_percent=93.4), LIMITS)[0]) == "memory 93 % (limit 90 %)"
    assert str(over(Load(nodes=0), LIMITS)[0]) == "no machine takes agents now"


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0.1, 100))
def test_door_moves_only_when_use_crosses_the_whole_gap(uses: list[float], limit: float) -> None:
    limits, before = Thresholds(memory_percent=limit), frozenset[Measure]()
    assert opens_at(limit) >= 0
    for use in uses:
        after = frozenset(shut(Load(memory_percent=use), limits, before))
        if after and not before:
            assert use > limit
        if before and not after:
            assert use <= opens_at(limit) < limit
        before = after


def test_look_is_read_as_it_was_stored_and_one_of_another_version_is_none() -> None:
    load = Load(memory_percent=93.4)
    look = Look(agents=3, load=load, limits=LIMITS, over=over(load, LIMITS), too_large={"huge": "too much"})
    assert look_of(look.stored()) == look
    assert look.stored()["load"]["networkMbit"] is None
    for other in (None, {}, {"agents": 3, "cpu_percent": 12.0}):
        assert look_of(other) is None


def test_look_that_says_more_than_is_known_is_read_for_what_is_known() -> None:
    look = Look(agents=3, load=Load(memory_percent=93.4), limits=LIMITS)
    assert look_of({**look.stored(), "more": 1}) == look


def test_room_by_template_is_stored_only_where_it_is_told_so_that_an_older_replica_reads_the_rest() -> None:
    look = Look(agents=3, load=Load(), limits=LIMITS)
    assert set(look.stored()) == {"agents", "load", "limits", "over", "tooLarge"}
    fit = Fit(templates=("large",), more=3, cpu=1, memory_mib=4096)
    told = look.model_copy(update={"fits": (fit,), "seen": {"large": 1}})
    assert look_of(told.stored()) == told
