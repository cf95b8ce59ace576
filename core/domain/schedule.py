"""A start to come: what a time is, how far ahead it may lie, and the states of what waits for it."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

# The specification's bound of a month; and enough for every project of a user, not for a user's every minute.
MOST_AHEAD = timedelta(days=30)
MOST_PENDING = 100
# A queue that is full at the due time is asked again for so long, this often.
PATIENCE = timedelta(minutes=10)
AGAIN = timedelta(seconds=15)


class ScheduledState(StrEnum):
    """`starting` is the moment in which the start is under way: from there on it cannot be taken back."""

    SCHEDULED = "scheduled"
    STARTING = "starting"
    STARTED = "started"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


PENDING = frozenset({ScheduledState.SCHEDULED, ScheduledState.STARTING})


class ScheduleReason(StrEnum):
    """Why a scheduled start came to nothing, besides the reasons of admission itself."""

    NOT_A_MEMBER = "not_a_member"
    WITHDRAWN = "user_requested"
    OPERATOR = "workflow_cancelled"
    TOO_MANY = "too_many_scheduled_starts"


class Now(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Later(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    at: datetime


class TooFar(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    latest: datetime


def when(start_at: datetime | None, now: datetime) -> Now | Later | TooFar:
    """What a start that names this time is: no time, and one that has passed, mean now."""
    if start_at is None or start_at <= now:
        return Now()
    if start_at > now + MOST_AHEAD:
        return TooFar(latest=now + MOST_AHEAD)
    return Later(at=start_at)


def moment(text: str) -> datetime:
    """ISO 8601 text with its zone, in UTC. Raises ValueError with a sentence for whoever wrote it."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("it is no ISO 8601 time, such as 2026-12-01T09:00:00+01:00") from None
    if found.tzinfo is None:
        raise ValueError("it has no zone: end it in Z for UTC, or in the zone's offset such as +01:00")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError("it lies outside the years 1 to 9999 of UTC") from None
