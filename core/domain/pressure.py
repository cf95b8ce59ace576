"""What to do about machines that run short: whom to ask to leave, and in which order. Pure.

The door shuts by itself (`thresholds`); this decides what a look for pressure does beyond that.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from core.domain.templates import Resources
from core.domain.thresholds import Look, Measure, Over, Value, opens_at
from core.domain.tiers import Tier, rank

# At most so many a look where nobody can say how much would help, and of those whose users are there.
MOST_A_LOOK = 5


class EvictReason(StrEnum):
    AWAY = "user_away"
    OLDEST = "oldest_of_lowest_tier"


class Kind(Value):
    """What agents of one template have in common here: what they may hold, and when their users count as away."""

    resources: Resources
    away_seconds: float


class Resident(Value):
    """One agent that holds memory of the cluster. `leaving`: it was told to go already, so its memory comes free."""

    agent_id: str
    tier: Tier
    started_at: datetime
    last_activity_at: datetime
    away_seconds: float
    memory_bytes: int
    busy: bool = False
    watched: bool = False
    leaving: bool = False


class Eviction(Value):
    """`detail` is the sentence that the agent's events and its user's notice carry."""

    agent_id: str
    reason: EvictReason
    detail: str


class Response(Value):
    """`queue_new`: what shuts the door. `pressing`: memory runs short, so a look later it is to be asked again."""

    queue_new: tuple[Over, ...] = ()
    pressing: bool = False
    evict: tuple[Eviction, ...] = ()
    clean_up: bool = False


def respond(look: Look, residents: Sequence[Resident], *, lasts: bool, at: datetime) -> Response:
    """`lasts`: the look before found memory short too. CPU alone costs nobody an agent: it only queues who is new.

    Memory: first agents whose users are away, the longest first; when it lasts, then the oldest of the lowest tier.
    One that runs a task goes only when all others went. No more go than would help, counting those that are leaving;
    and nobody whose user is there, where it would not help if all of them went.
    """
    memory = _crossed(look, Measure.MEMORY)
    evict = tuple(_leave(look, memory, residents, lasts, at)) if memory is not None else ()
    return Response(
        queue_new=look.over,
        pressing=memory is not None,
        evict=evict,
        clean_up=_crossed(look, Measure.DISK) is not None,
    )


def _crossed(look: Look, measure: Measure) -> Over | None:
    """Over the threshold itself: within the gap in which the door stays shut nobody has to go."""
    return next((each for each in look.over if each.measure is measure and each.value > each.limit), None)


def _leave(look: Look, over: Over, residents: Sequence[Resident], lasts: bool, at: datetime) -> Iterator[Eviction]:
    needed = _Needed(look, over, [each for each in residents if each.leaving])
    staying = [each for each in residents if not each.leaving]
    gone: set[str] = set()
    absent = (each for each in staying if _is_away(each, at))
    for resident in sorted(absent, key=lambda r: (r.last_activity_at, r.agent_id)):
        if not needed.more():
            return
        needed.take(resident)
        gone.add(resident.agent_id)
        minutes = int((at - resident.last_activity_at).total_seconds() // 60)
        why = f"{over}; not used for {minutes} min"
        yield Eviction(agent_id=resident.agent_id, reason=EvictReason.AWAY, detail=why)
    others = [each for each in staying if each.agent_id not in gone]
    if not lasts or not needed.may_be_met_by(others):
        return
    oldest = sorted(others, key=lambda r: (r.busy, -rank(r.tier), r.started_at, r.agent_id))
    for resident in oldest[:MOST_A_LOOK]:
        if not needed.more():
            return
        needed.take(resident)
        why = f"{over} for longer than a look; the oldest of those of tier {resident.tier}"
        yield Eviction(agent_id=resident.agent_id, reason=EvictReason.OLDEST, detail=why)


def _is_away(resident: Resident, at: datetime) -> bool:
    unused = at - resident.last_activity_at
    return not resident.busy and not resident.watched and unused > timedelta(seconds=resident.away_seconds)


class _Needed:
    """How much must still go: memory where the machines say how much they have, else a number of agents."""

    def __init__(self, look: Look, over: Over, leaving: Sequence[Resident]) -> None:
        whole = look.load.memory_bytes
        self._bytes = None if whole is None else (over.value - opens_at(over.limit)) / 100 * whole
        # So much of it is not needed to be within the threshold at all.
        self._beyond = (over.limit - opens_at(over.limit)) / 100 * (whole or 0)
        self._agents = MOST_A_LOOK
        for resident in leaving:
            self.take(resident)

    def more(self) -> bool:
        return self._agents > 0 if self._bytes is None else self._bytes > 0

    def take(self, resident: Resident) -> None:
        self._agents -= 1
        if self._bytes is not None:
            self._bytes -= resident.memory_bytes

    def may_be_met_by(self, residents: Sequence[Resident]) -> bool:
        """Whether it would help if all of them went: what others than agents hold, no agent can give back."""
        held = sum(each.memory_bytes for each in residents)
        return self._bytes is None or self._bytes - self._beyond <= held
