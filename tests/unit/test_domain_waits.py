"""How long a place in line takes."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.queueing import order_key
from core.domain.tiers import Tier
from core.domain.waits import Came, Flow, Overtakers, Pace, Wait, estimate_wait, foretell, held, overtakers, until_place

START = datetime(2026, 1, 1, tzinfo=UTC)
positions = st.integers(1, 1000)
actives = st.integers(0, 1000)
means = st.floats(0, 10_000)
rates = st.floats(0, 50)


def measured(mean: float = 10, departures: float = 50, **fields: object) -> Flow:
    return Flow(departures=departures, mean_life_minutes=mean, minutes=100, counted_at=START).model_copy(update=fields)


def test_wait_is_position_over_turnover_until_there_is_data() -> None:
    wait = estimate_wait(3, active=45, mean_life_minutes=45)
    assert (wait.minutes, wait.low, wait.high) == (3, 1, 5)
    # At least one departure in ten minutes, however few are there.
    assert estimate_wait(2, active=0, mean_life_minutes=45).minutes == 20
    few = measured(mean=1, departures=4.9)
    assert foretell(3, 45, few, (), 45) == wait


@given(positions, actives, means)
def test_formula_lies_within_its_range_and_grows_with_the_position(position: int, active: int, mean: float) -> None:
    here, behind = estimate_wait(position, active, mean), estimate_wait(position + 1, active, mean)
    assert 0 <= here.low <= here.minutes <= here.high
    assert here.minutes <= behind.minutes
    assert here.low <= behind.low
    assert here.high <= behind.high


@given(positions, actives, means, st.floats(0, 1000))
def test_formula_shrinks_with_more_agents_and_grows_with_longer_lives(
    position: int, active: int, mean: float, longer: float
) -> None:
    here = estimate_wait(position, active, mean).minutes
    assert estimate_wait(position, active + 1, mean).minutes <= here
    assert estimate_wait(position, active, mean + longer).minutes >= here


def test_measured_lives_replace_the_assumed_ones() -> None:
    assert foretell(4, 20, measured(mean=10), (), 45).minutes == 2
    assert foretell(4, 20, measured(mean=100), (), 45).minutes == 20
    # A slow pool is not made quicker by a floor: one slot, four lives of 100 minutes.
    assert foretell(4, 1, measured(mean=100), (), 45).minutes == 400


def test_wait_for_a_place_that_is_free_is_how_long_those_before_it_take_to_start() -> None:
    slow = Pace(at_once=2, minutes=3)
    assert until_place(1, slow) == Wait(minutes=2, low=0, high=3)
    assert until_place(20, slow) == Wait(minutes=30, low=15, high=60)
    assert until_place(20, Pace(at_once=None, minutes=3)) == Wait(minutes=1, low=0, high=1)


def test_range_is_narrower_the_more_was_counted() -> None:
    few, many = (foretell(40, 20, measured(departures=n), (), 45) for n in (5, 100))
    assert few.minutes == many.minutes == 20
    assert (few.low, few.high) == (9, 33)
    assert (many.low, many.high) == (15, 25)


@given(positions, actives, st.floats(0.01, 10_000), rates, st.none() | st.floats(0, 1000))
def test_wait_lies_within_its_range_whoever_overtakes_and_is_never_without_end(
    position: int, active: int, mean: float, rate: float, minutes: float | None
) -> None:
    alone = foretell(position, active, measured(mean), (), 45)
    overtaken = foretell(position, active, measured(mean), [Overtakers(a_minute=rate, minutes=minutes)], 45)
    for wait in (alone, overtaken):
        assert 0 <= wait.low <= wait.minutes <= wait.high <= 100_000
    assert alone.minutes <= overtaken.minutes


def test_who_comes_later_and_goes_first_lengthens_the_wait() -> None:
    def wait(*later: Overtakers) -> int:
        return foretell(10, 20, measured(mean=10), later, 45).minutes

    assert wait() == 5
    # Two a minute leave, one a minute steps in front.
    assert wait(Overtakers(a_minute=1)) == 10
    # For four minutes only: four more ahead.
    assert wait(Overtakers(a_minute=1, minutes=4)) == 7
    assert wait(Overtakers(a_minute=1, minutes=400)) == 10


def test_only_higher_tiers_overtake_and_with_ageing_only_for_a_time() -> None:
    flow = measured(arrivals=(10, 20, 30, 40))
    now = START + timedelta(minutes=1)

    def later(tier: Tier, fair: int = 0, ageing: timedelta | None = None) -> list[tuple[float, float | None]]:
        key = order_key(tier, START, fair=fair, ageing=ageing)
        found = overtakers(flow, key, tier, fair, START, now)
        return sorted((round(each.a_minute, 6), each.minutes and round(each.minutes, 3)) for each in found)

    assert later(Tier.ENTERPRISE) == []
    assert later(Tier.BASIC) == [(0.1, None), (0.2, None)]
    assert later(Tier.BASIC, fair=2) == [(0.1, None), (0.2, None), (0.3, None)]
    assert later(Tier.BASIC, ageing=timedelta(minutes=5)) == [(0.1, 9), (0.2, 4)]
    assert later(Tier.ENTERPRISE, ageing=timedelta(minutes=5)) == []
    front = order_key(Tier.FREE, START, front=True)
    assert overtakers(flow, front, Tier.FREE, 0, START, now) == ()


def test_lives_under_way_count_with_what_they_have_lived() -> None:
    """Of two slots one saw ten short lives and the other a long one that goes on: 20 minutes held, 10 departures."""
    flow = Flow(counted_at=START)
    for minute in range(1, 11):
        flow = flow.departed(START + timedelta(minutes=minute), held_minutes=2)
    assert flow.mean_life_minutes == pytest.approx(2)
    assert flow.departures == pytest.approx(9.56, abs=0.01)
    later = flow.until(START + timedelta(minutes=20), held_minutes=10)
    assert later.mean_life_minutes == pytest.approx(2 + 10 / flow.departures)
    assert later.minutes == pytest.approx(flow.minutes + 10)


def test_old_departures_fade() -> None:
    flow = Flow(counted_at=START)
    for minute in range(1000):
        flow = flow.departed(START + timedelta(minutes=minute), held_minutes=30 if minute < 500 else 3)
    assert flow.departures == pytest.approx(100, rel=0.01)
    assert flow.mean_life_minutes == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize(
    ("minutes", "came"), [(1.9, Came.SOONER), (2, Came.WITHIN), (5, Came.WITHIN), (5.1, Came.LATER)]
)
def test_real_wait_is_held_against_the_range(minutes: float, came: Came) -> None:
    assert held(Wait(minutes=3, low=2, high=5), minutes) is came
