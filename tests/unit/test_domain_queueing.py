"""Order of the queue."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from core.domain.queueing import ageing_of, order_key
from core.domain.tiers import Tier, TierLimits, rank

START = datetime(2026, 1, 1, tzinfo=UTC)
moments = st.integers(0, 10**6).map(lambda ticks: START + timedelta(milliseconds=ticks))
tiers = st.sampled_from(Tier)
others = st.integers(0, 50)
STEP = timedelta(minutes=10)


def test_tiers_go_enterprise_premium_basic_free() -> None:
    assert sorted(Tier, key=rank) == [Tier.ENTERPRISE, Tier.PREMIUM, Tier.BASIC, Tier.FREE]
    assert [TierLimits().of(tier) for tier in sorted(Tier, key=rank)] == [50, 10, 3, 1]


@given(tiers, tiers, others, others, moments, moments)
def test_front_goes_before_tier_tier_before_fair_and_fair_before_time(
    one: Tier, two: Tier, few: int, many: int, early: datetime, late: datetime
) -> None:
    first, second = order_key(one, early, fair=few).place(), order_key(two, late, fair=many).place()
    if rank(one) != rank(two):
        assert (first < second) == (rank(one) < rank(two))
    elif few != many:
        assert (first < second) == (few < many)
    else:
        assert (first <= second) == (early <= late)
    assert order_key(one, late, fair=many, front=True).place() < second


@given(tiers, tiers, others, others, moments, moments)
def test_with_ageing_a_tier_is_worth_a_step_of_time_and_other_agents_less_than_one(
    one: Tier, two: Tier, few: int, many: int, early: datetime, late: datetime
) -> None:
    here = order_key(one, early, fair=few, ageing=STEP)
    assert (here.tier_rank, here.fair) == (0, 0)
    lost = here.at - early
    assert STEP * (rank(one) - 1) <= lost < STEP * rank(one)
    there = order_key(two, late, fair=many, ageing=STEP)
    # Whoever comes four steps later is behind, whatever the tiers: nobody waits for ever.
    if late - early >= STEP * 4:
        assert here.place() < there.place()
    if early == late and few == many:
        assert (here.place() < there.place()) == (rank(one) < rank(two))


@given(tiers, others, others, moments)
def test_with_ageing_more_other_agents_never_help(tier: Tier, few: int, more: int, at: datetime) -> None:
    low, high = sorted((few, few + more))
    assert order_key(tier, at, fair=low, ageing=STEP).place() <= order_key(tier, at, fair=high, ageing=STEP).place()


@given(tiers, others, moments)
def test_key_itself_tells_what_a_tier_was_worth(tier: Tier, fair: int, since: datetime) -> None:
    assert ageing_of(order_key(tier, since, fair=fair), tier, fair, since) is None
    found = ageing_of(order_key(tier, since, fair=fair, ageing=STEP), tier, fair, since)
    if tier is Tier.ENTERPRISE and fair == 0:
        assert found is None, "nobody who comes later goes before it, so nothing is to be known"
    else:
        assert found is not None
        assert abs(found - STEP) < timedelta(milliseconds=1)
