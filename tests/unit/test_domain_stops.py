"""What two orders to stop come to."""

from typing import Any

import pytest

from core.domain.lifecycle import EndReason
from core.domain.orders import StopOrder
from core.domain.stops import grace_of, may_be_kept, together

USUAL = 120.0


def order(reason: str = EndReason.MAINTENANCE, **fields: Any) -> StopOrder:
    return StopOrder(reason=reason, **fields)


FORCED = order(EndReason.OPERATOR, force=True, detail="it burns")
ASKED = order(EndReason.USER_REQUESTED)
ASKED_WITH_A_WARNING = order(EndReason.USER_REQUESTED, grace_seconds=300)
IDLE = order(EndReason.INACTIVITY)
KEPT_UP = order(EndReason.MAINTENANCE, grace_seconds=600)
ALL = [FORCED, ASKED, ASKED_WITH_A_WARNING, IDLE, KEPT_UP, order(EndReason.MAX_LIFE)]


@pytest.mark.parametrize("first", ALL)
@pytest.mark.parametrize("second", ALL)
def test_no_order_takes_anything_from_another(first: StopOrder, second: StopOrder) -> None:
    both = together(first, second, USUAL)
    assert both.force is (first.force or second.force)
    assert grace_of(both, USUAL) == min(grace_of(first, USUAL), grace_of(second, USUAL))
    kept = grace_of(both, USUAL) > 0 and may_be_kept(both)
    assert not kept or (may_be_kept(first) and may_be_kept(second))


def test_weaker_stop_leaves_a_forced_one_as_it_was() -> None:
    assert together(FORCED, ASKED_WITH_A_WARNING, USUAL) == FORCED


def test_first_reason_is_the_one_that_is_told() -> None:
    both = together(ASKED, FORCED, USUAL)
    assert (both.reason, both.detail, both.force) == (EndReason.USER_REQUESTED, "", True)
    assert together(KEPT_UP, IDLE, USUAL).reason == EndReason.MAINTENANCE


def test_reason_that_its_user_may_take_back_gives_way_to_one_that_is_not_his() -> None:
    both = together(IDLE, KEPT_UP, USUAL)
    assert (both.reason, both.grace_seconds) == (EndReason.MAINTENANCE, USUAL)


def test_order_that_comes_alone_or_twice_is_as_it_was_given() -> None:
    for each in ALL:
        assert together(None, each, USUAL) == each
        assert together(each, each, USUAL) == each
