"""The queue as a few plain lists: what the one in the database must agree with after every step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from core.db.repositories import clusters
from core.domain.admission import Rules, Standing
from core.domain.lifecycle import AgentState
from core.domain.orders import StartRequest
from core.domain.room import Room, Starts
from core.domain.templates import Pool
from core.domain.tiers import Tier, TierLimits

USERS, PROJECTS, POOLS = ("ann", "bob", "cat", "dan", "eve", "fay"), ("p", "q", "r", "s"), ("default", "side")
MAX_WAITING = 5
LIMITS = TierLimits(free=1, basic=2, premium=3, enterprise=4)
FIRST_GOES = (Tier.ENTERPRISE, Tier.PREMIUM, Tier.BASIC, Tier.FREE)


class Leaving(StrEnum):
    """How one that holds a slot goes."""

    AT_ONCE = "at once"
    SLOWLY = "slowly"
    EVICTED = "evicted"
    # Its user asks for the same project before it is gone.
    WANTED_AGAIN = "wanted again"


@dataclass
class Known:
    """What the plain list knows of one agent."""

    agent_id: str
    user: str
    project: str
    pool: str
    tier: Tier
    others: int
    since: datetime
    request: StartRequest
    state: AgentState
    seen: bool = False


@dataclass
class Plain:
    """The world as a few lists: what the database must agree with after every step."""

    now: datetime
    ageing: timedelta | None
    tiers: dict[str, Tier]
    total: int
    choked: bool
    measured_at: datetime
    pools: dict[str, Pool]
    capacity: dict[str, int] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    unpaid: set[str] = field(default_factory=set)
    owed: dict[tuple[str, str], datetime] = field(default_factory=dict)
    living: list[Known] = field(default_factory=list)
    came: int = 0

    def of(self, *states: AgentState, pool: str | None = None, user: str | None = None) -> list[Known]:
        return [
            each
            for each in self.living
            if each.state in states and pool in (None, each.pool) and user in (None, each.user)
        ]

    def holders(self, pool: str | None = None, user: str | None = None) -> list[Known]:
        return self.of(AgentState.STARTING, AgentState.RUNNING, AgentState.DRAINING, pool=pool, user=user)

    def line(self, pool: str) -> list[Known]:
        """In the declared order."""
        return sorted(self.of(AgentState.QUEUED, pool=pool), key=self._declared)

    def _declared(self, each: Known) -> tuple[Any, ...]:
        tier = FIRST_GOES.index(each.tier)
        if self.ageing is None:
            return tier, each.others, each.since, each.agent_id
        return each.since + self.ageing * (tier + each.others / (each.others + 10)), each.agent_id

    def free(self, pool: str) -> int:
        stale = self.now - self.measured_at > clusters.STALE_AFTER
        if pool in self.paused or self.choked or stale:
            return 0
        most = self.pools[pool].max_starting
        starts = 99 if most is None else most - len(self.of(AgentState.STARTING, pool=pool))
        return max(0, min(self.capacity[pool] - len(self.holders(pool)), self.total - len(self.holders()), starts))

    def winners(self, pool: str) -> list[Known]:
        """Slot by slot, the first in line who may have one."""
        found: list[Known] = []
        for _ in range(self.free(pool)):
            first = next((each for each in self.line(pool) if each not in found and self._may(each, found)), None)
            if first is None:
                break
            found.append(first)
        return found

    def _may(self, each: Known, granted: Sequence[Known]) -> bool:
        held = len(self.holders(user=each.user)) + sum(other.user == each.user for other in granted)
        ending = any(
            other.project == each.project and other.state is AgentState.DRAINING
            for other in self.holders(user=each.user)
        )
        return held < LIMITS.of(self.tiers[each.user]) and not ending and each.user not in self.unpaid

    def standing(self, user: str, *, same_project_ending: bool) -> Standing:
        theirs = [each for each in self.living if each.user == user]
        return Standing(
            tier=self.tiers[user],
            limit=LIMITS.of(self.tiers[user]),
            living=len(theirs),
            ending=sum(each.state is AgentState.DRAINING for each in theirs),
            subscription_active=user not in self.unpaid,
            same_project_ending=same_project_ending,
        )

    def room(self, pool: str) -> Room:
        stale = self.now - self.measured_at > clusters.STALE_AFTER
        return Room(
            holders=len(self.holders(pool)),
            waiting=len(self.line(pool)),
            capacity=self.capacity[pool],
            cluster_free=None if stale else self.total - len(self.holders()),
            paused=pool in self.paused,
            choked=self.choked,
            max_waiting=MAX_WAITING,
            starts=Starts(now=len(self.of(AgentState.STARTING, pool=pool)), most=self.pools[pool].max_starting),
        )

    def rules(self) -> Rules:
        return Rules(limits=LIMITS, max_waiting=MAX_WAITING, ageing=self.ageing, pools=self.pools)
