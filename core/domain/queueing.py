"""Who is next and how long: the order key fixed at enqueue, and the estimate of the wait."""

import math
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from core.domain.tiers import Tier, rank


class OrderKey(BaseModel):
    """Smaller goes first: `front` (a restart that lost its place), then tier, then time."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    front: int = 1
    tier_rank: int
    at: datetime


def order_key(tier: Tier, at: datetime, *, front: bool = False) -> OrderKey:
    return OrderKey(front=0 if front else 1, tier_rank=rank(tier), at=at)


class Wait(BaseModel):
    """Minutes until a slot, as one number and as a range."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    minutes: int
    low: int
    high: int


def estimate_wait(position: int, active: int, mean_life_minutes: float) -> Wait:
    """The specification's formula: position over turnover, turnover = active agents a mean life, at least 0.1 a minute.

    The range is one Poisson deviation of `position` departures to either side.
    """
    turnover = max(active / max(mean_life_minutes, 1 / 60), 0.1)
    spread = math.sqrt(position)
    return Wait(
        minutes=math.ceil(position / turnover),
        low=math.floor(max(position - spread, 0) / turnover),
        high=math.ceil((position + spread) / turnover),
    )
