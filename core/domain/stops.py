"""Orders to stop: the warning that each leaves, and what two of them come to."""

from datetime import datetime

from core.domain.lifecycle import KEEPABLE, EndReason
from core.domain.orders import StopOrder
from core.domain.timings import seconds

_OWN = frozenset({EndReason.USER_REQUESTED, EndReason.USER_LEFT, EndReason.CANCELLED})


def grace_of(order: StopOrder, usual: float) -> float:
    """Seconds of warning before an agent that is usable stops; `usual` where its user did not ask for the stop."""
    if order.force:
        return 0
    if order.grace_seconds is not None:
        return order.grace_seconds
    # The user's own stop needs no warning to the user.
    return 0 if order.reason in _OWN else usual


def may_be_kept(order: StopOrder) -> bool:
    """Never because of its grace alone: an administrator's stop with a warning is still not its user's to undo."""
    return order.reason in KEEPABLE


def hastens(order: StopOrder, until: datetime | None, now: datetime, usual: float, *, keepable: bool) -> bool:
    """Whether an order changes anything of an agent that is warned `until` then; None: there is nothing to shorten."""
    if order.force:
        return True
    if until is None:
        return False
    return now + seconds(grace_of(order, usual)) < until or (keepable and not may_be_kept(order))


def together(first: StopOrder | None, second: StopOrder, usual: float) -> StopOrder:
    """What a life follows that was told both before it acted on either: no order takes away from another.

    Forced if either is, the shorter warning, and the first one's reason, unless that alone would let the user keep an
    agent that the other wants gone.
    """
    if first is None:
        return second
    grace = min(grace_of(first, usual), grace_of(second, usual))
    told = second if grace > 0 and may_be_kept(first) and not may_be_kept(second) else first
    asked = told.grace_seconds if grace_of(told, usual) == grace else grace
    return told.model_copy(update={"force": first.force or second.force, "grace_seconds": asked})
