"""Order and wait of the queue."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from core.domain.queueing import OrderKey, order_key
from core.domain.tiers import Tier, TierLimits, rank
from core.domain.waits import estimate_wait

START = datetime(2026, 1, 1, tzinfo=UTC)
moments = st.integers(0, 10**6).map(lambda ticks: START + timedelta(milliseconds=ticks))
positions = st.integers(1, 1000)
actives = st.integers(0, 1000)
means = st.floats(0, 10_000)


def place(key: OrderKey) -> tuple[int, int, datetime]:
    return key.front, key.tier_rank, key.at


def test_tiers_go_enterprise_premium_basic_free() -> None:
    assert sorted(Tier, key=rank) == [Tier.ENTERPRISE, Tier.PREMIUM, Tier.BASIC, Tier.FREE]
    assert [TierLimits().of(tier) for tier in sorted(Tier, key=rank)] == [50, 10, 3, 1]


@given(st.sampled_from(Tier), st.sampled_from(Tier), moments, moments)
def test_front_goes_before_tier_and_tier_before_time(one: Tier, two: Tier, early: datetime, late: datetime) -> None:
    first, second = order_key(one, early), order_key(two, late)
    if rank(one) != rank(two):
        assert (place(first) < place(second)) == (rank(one) < rank(two))
    else:
        assert (place(first) <= place(second)) == (early <= late)
    assert place(order_key(one, late, front=True)) < place(second)


def test_wait_is_position_over_turnover() -> None:
    wait = estimate_wait(3, active=45, mean_life_minutes=45)
    assert (wait.minutes, wait.low, wait.high) == (3, 1, 5)
    # At least one departure in ten minutes, however few are there.
    assert estimate_wait(2, active=0, mean_life_minutes=45).minutes == 20


@given(positions, actives, means)
def test_wait_lies_within_its_range_and_grows_with_the_position(position: int, active: int, mean: float) -> None:
    here, behind = estimate_wait(position, active, mean), estimate_wait(position + 1, active, mean)
    assert 0 <= here.low <= here.minutes <= here.high
    assert here.minutes <= behind.minutes
    assert here.low <= behind.low
    assert here.high <= behind.high


@given(positions, actives, means, st.floats(0, 1000))
def test_wait_shrinks_with_more_agents_and_grows_with_longer_lives(
    position: int, active: int, mean: float, longer: float
) -> None:
    here = estimate_wait(position, active, mean).minutes
    assert estimate_wait(position, active + 1, mean).minutes <= here
    assert estimate_wait(position, active, mean + longer).minutes >= here
