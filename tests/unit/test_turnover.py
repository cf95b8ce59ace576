"""Waits in a pool whose agents may not all start at once."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.db.repositories.flows import Turnover
from core.domain.queueing import order_key
from core.domain.tiers import Tier
from core.domain.waits import Flow, Pace, Wait

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = order_key(Tier.ENTERPRISE, NOW)
flows = st.builds(
    Flow,
    departures=st.sampled_from([0, 4, 50]),
    mean_life_minutes=st.floats(0.1, 500),
    minutes=st.floats(1, 500),
    counted_at=st.just(NOW),
)


def pool(**fields: object) -> Turnover:
    usual = {"at": NOW, "active": 0, "above": 0, "spare": 0, "flow": Flow(), "lifespan_minutes": 45}
    return Turnover.model_validate({**usual, "pace": Pace(at_once=None, minutes=0.1), **fields})


def told(turnover: Turnover, position: int) -> Wait:
    return turnover.wait(position, KEY, Tier.ENTERPRISE, 0, NOW)


@given(
    st.builds(
        pool,
        active=st.integers(0, 100),
        spare=st.integers(0, 100),
        pace=st.builds(Pace, at_once=st.none() | st.integers(1, 5), minutes=st.floats(0.01, 10)),
        flow=flows,
    ),
    st.integers(1, 300),
)
def test_nobody_is_told_a_longer_wait_than_who_stands_behind(turnover: Turnover, position: int) -> None:
    here, behind = told(turnover, position), told(turnover, position + 1)
    assert here.minutes <= behind.minutes
    assert here.low <= behind.low
    assert here.high <= behind.high


def test_who_has_to_wait_for_a_slot_and_for_many_starts_is_told_the_longer_of_both() -> None:
    busy = Flow(departures=500, mean_life_minutes=10, minutes=100, counted_at=NOW)
    turning = pool(active=100, flow=busy)
    assert told(turning, 10).minutes == 1
    assert told(turning.model_copy(update={"pace": Pace(at_once=1, minutes=3)}), 10) == Wait(
        minutes=30, low=15, high=60
    )


@pytest.mark.parametrize("holding", [0, 7, 20])
def test_who_waits_behind_all_free_places_counts_on_those_who_will_hold_them(holding: int) -> None:
    # Twenty places in all: whoever is first behind them waits for one of twenty to leave, however few are taken yet.
    filling = pool(active=holding, spare=20 - holding, pace=Pace(at_once=2, minutes=0.1), lifespan_minutes=40)
    assert told(filling, 20 - holding + 10).minutes == 20
