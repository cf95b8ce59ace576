"""What two orders to stop come to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.domain.lifecycle import EndReason
from core.domain.orders import StopOrder
from core.domain.stops import grace_of, hastens, may_be_kept, together

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


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("again", "left", "keepable", "changes"),
    [
        pytest.param(ASKED, 60, True, True, id="at once"),
        pytest.param(ASKED_WITH_A_WARNING, 301, True, True, id="sooner"),
        pytest.param(ASKED_WITH_A_WARNING, 300, True, False, id="no sooner"),
        pytest.param(KEPT_UP, 60, True, True, id="later, and not to be taken back"),
        pytest.param(KEPT_UP, 60, False, False, id="later"),
        pytest.param(IDLE, 121, False, True, id="sooner by the usual warning"),
        pytest.param(ASKED, None, False, False, id="it saves already"),
        pytest.param(FORCED, None, False, True, id="by force, while it saves"),
    ],
)
def test_order_to_one_that_was_told_to_go_counts_where_it_changes_something(
    again: StopOrder, left: float | None, keepable: bool, changes: bool
) -> None:
    until = None if left is None else NOW + timedelta(seconds=left)
    assert hastens(again, until, NOW, USUAL, keepable=keepable) is changes
