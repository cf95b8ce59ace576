"""Who is next: the order key, fixed when a request joins the line and replaced only when its tier changes."""

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from core.domain.tiers import Tier, rank

# Under ageing, so many other agents weigh half as much as one tier; however many there are, never as much as one.
_HALF_A_TIER = 10

# Of a restart that lost its slot; all others have 1.
FRONT = 0


class OrderKey(BaseModel):
    """Smaller goes first: `front` (a restart that lost its place), then tier, then fair, then time.

    `fair` is how many agents the user had in other projects when the request came. With ageing on, tier and fair are
    0 for everybody and count as a later time instead, so that whoever waits long enough is before all who come.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    front: int = 1
    tier_rank: int
    fair: int = 0
    at: datetime

    def place(self) -> tuple[int, int, int, datetime]:
        """What keys are compared by."""
        return self.front, self.tier_rank, self.fair, self.at


def order_key(
    tier: Tier, at: datetime, *, fair: int = 0, front: bool = False, ageing: timedelta | None = None
) -> OrderKey:
    """`at` is when the request came, or the eviction that it makes good; `ageing` what one tier is worth in waiting."""
    first = FRONT if front else 1
    if ageing is None:
        return OrderKey(front=first, tier_rank=rank(tier), fair=fair, at=at)
    return OrderKey(front=first, tier_rank=0, fair=0, at=at + ageing * _steps(tier, fair))


def _steps(tier: Tier, fair: int) -> float:
    """Tiers that a request stands behind the first one, and the part of a tier that its user's other agents cost."""
    return rank(tier) - 1 + fair / (fair + _HALF_A_TIER)


def ageing_of(key: OrderKey, tier: Tier, fair: int, since: datetime) -> timedelta | None:
    """What a tier was worth when `key` was made of the rest; None: without ageing, or nothing of the key tells."""
    steps = _steps(tier, fair)
    return (key.at - since) / steps if key.tier_rank == 0 and steps > 0 else None
