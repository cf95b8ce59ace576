"""How long a place in line takes: the specification's estimate until there is data, then the pool's measured flow."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from core.domain.queueing import FRONT, OrderKey, ageing_of
from core.domain.tiers import Tier, rank
from core.domain.value import Value

# Each departure fades the ones before it by this, so that about the last hundred count.
_FADE = 0.99
# Fewer departures say too little.
_ENOUGH = 5
# However many keep overtaking, the line is taken to move at this part of its speed.
_SLOWEST = 0.3
# How far the range reaches to either side, in deviations: in the simulation it then holds for 82 to 95 of 100.
_DEVIATIONS = 1.25
_MOST_MINUTES = 100_000


class Wait(Value):
    """Minutes until a slot, as one number and as a range."""

    minutes: int
    low: int
    high: int


class Came(StrEnum):
    """How a wait came out against its range."""

    WITHIN = "within"
    SOONER = "sooner"
    LATER = "later"


def held(told: Wait, minutes: float) -> Came:
    if minutes < told.low:
        return Came.SOONER
    return Came.WITHIN if minutes <= told.high else Came.LATER


class Flow(Value):
    """What a pool's agents came to: departures, how long a slot is held, who came of each tier, and in what time.

    All of it fades with each departure. `mean_life_minutes` counts the lives under way with what they have lived so
    far, so that a pool in which only the short ones have ended yet does not look quick.
    """

    departures: float = 0
    mean_life_minutes: float = 0
    minutes: float = 0
    # By rank of the tier, enterprise first.
    arrivals: tuple[float, float, float, float] = (0, 0, 0, 0)
    counted_at: datetime | None = None

    def departed(self, at: datetime, held_minutes: float) -> "Flow":
        """One agent gave its slot back; `held_minutes` is what all slots together were held since `counted_at`."""
        departures = self.departures * _FADE + 1
        a, b, c, d = self.arrivals
        return Flow(
            departures=departures,
            mean_life_minutes=(self._held() * _FADE + held_minutes) / departures,
            minutes=(self.minutes * _FADE) + self._since(at),
            arrivals=(a * _FADE, b * _FADE, c * _FADE, d * _FADE),
            counted_at=at,
        )

    def until(self, at: datetime, held_minutes: float) -> "Flow":
        """The same with what has been held and waited since the last departure."""
        mean = (self._held() + held_minutes) / self.departures if self.departures else 0
        return self.model_copy(
            update={"mean_life_minutes": mean, "minutes": self.minutes + self._since(at), "counted_at": at}
        )

    def came_a_minute(self, tier: Tier) -> float:
        return self.arrivals[rank(tier) - 1] / self.minutes if self.minutes > 0 else 0

    def _held(self) -> float:
        return self.mean_life_minutes * self.departures

    def _since(self, at: datetime) -> float:
        return max((at - self.counted_at).total_seconds(), 0) / 60 if self.counted_at else 0


class Pace(Value):
    """How fast free places fill: so many agents start at once (None: any number), each in so many minutes."""

    at_once: int | None
    minutes: float


class Overtakers(Value):
    """Requests yet to come that will go first: so many a minute, for so many minutes (None: for ever)."""

    a_minute: float
    minutes: float | None = None


def overtakers(
    flow: Flow, key: OrderKey, tier: Tier, fair: int, since: datetime, now: datetime
) -> tuple[Overtakers, ...]:
    """Who will go before a request that has `key`, made of the rest, though they come after it.

    Those of higher tiers, and of its own when its user has other agents, which most that come then have fewer of.
    """
    ageing = ageing_of(key, tier, fair, since)
    if key.front == FRONT or (ageing is None and key.tier_rank == 0):
        return ()
    before = [each for each in Tier if rank(each) < rank(tier) or (each is tier and fair > 0)]
    return tuple(
        Overtakers(a_minute=flow.came_a_minute(each), minutes=_minutes_left(key, each, ageing, now)) for each in before
    )


def _minutes_left(key: OrderKey, tier: Tier, ageing: timedelta | None, now: datetime) -> float | None:
    if ageing is None:
        return None
    return max((key.at - ageing * (rank(tier) - 1) - now).total_seconds() / 60, 0)


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


def until_place(position: int, pace: Pace) -> Wait:
    """The wait of one for whom a place is free already, `position` of those who may start before it included.

    The range is from half of the time to twice of it: starts that are done together take longer each.
    """
    mean = pace.minutes * position / pace.at_once if pace.at_once else 0
    return Wait(
        minutes=_minutes(max(math.ceil(mean), 1)),
        low=_minutes(math.floor(mean / 2)),
        high=_minutes(max(math.ceil(mean * 2), 1)),
    )


def later_of(one: Wait, other: Wait) -> Wait:
    """The wait of one who waits for two things at once."""
    return Wait(minutes=max(one.minutes, other.minutes), low=max(one.low, other.low), high=max(one.high, other.high))


def foretell(position: int, active: int, flow: Flow, later: Sequence[Overtakers], lifespan_minutes: float) -> Wait:
    """The wait of a place with `active` slots held, before which those of `later` will still step.

    Departures are taken for a Poisson stream: `active` over the mean time a slot is held. The line in front shrinks by
    the difference of two streams, which gives the mean and its deviation; what is not known of the streams, because
    they were measured by few, adds to it. The range has the shape of a gamma distribution, as sums of waits have.
    """
    if flow.departures < _ENOUGH:
        return estimate_wait(position, active, lifespan_minutes)
    turnover = max(active, 1) / max(flow.mean_life_minutes, 1 / 60)
    for_ever, for_a_time = _sorted(position, turnover, later)
    stepping, before = sum(each.a_minute for each in for_ever), sum(_all_of(each) for each in for_a_time)
    speed = max(turnover - stepping, turnover * _SLOWEST)
    mean = (position + before) / speed
    chance = mean * (turnover + stepping) / speed**2 + before / speed**2
    counted = max(flow.minutes, 1 / 60)
    unknown = (mean * turnover / speed) ** 2 / flow.departures
    unknown += (mean / speed) ** 2 * stepping / counted
    unknown += sum((each.minutes or 0) ** 2 * each.a_minute for each in for_a_time) / counted / speed**2
    shape = mean**2 / (chance + unknown)
    return Wait(
        minutes=_minutes(math.ceil(mean)),
        low=_minutes(math.floor(mean * _quantile(shape, -_DEVIATIONS))),
        high=_minutes(math.ceil(mean * max(_quantile(shape, _DEVIATIONS), 1))),
    )


def _sorted(position: int, turnover: float, later: Sequence[Overtakers]) -> tuple[list[Overtakers], list[Overtakers]]:
    """Those who can step in front as long as the wait lasts, and those who only can for a shorter time."""
    for_ever = [each for each in later if each.minutes is None]
    for_a_time: list[Overtakers] = []
    ahead = float(position)
    limited = sorted((each for each in later if each.minutes is not None), key=lambda each: each.minutes or 0)
    for number, each in enumerate(limited):
        rate = sum(other.a_minute for other in [*for_ever, *limited[number:]])
        if (each.minutes or 0) >= ahead / max(turnover - rate, turnover * _SLOWEST):
            return [*for_ever, *limited[number:]], for_a_time
        for_a_time.append(each)
        ahead += _all_of(each)
    return for_ever, for_a_time


def _all_of(each: Overtakers) -> float:
    return each.a_minute * (each.minutes or 0)


def _quantile(shape: float, deviations: float) -> float:
    """Of a gamma distribution with mean 1, as Wilson and Hilferty approximate it."""
    return max(1 - 1 / (9 * shape) + deviations / (3 * math.sqrt(shape)), 0) ** 3


def _minutes(value: int) -> int:
    return min(value, _MOST_MINUTES)
