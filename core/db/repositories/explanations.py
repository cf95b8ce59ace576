"""What a start would lead to now: the decision of `admission`, made on the same numbers and carried out by nobody."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, User
from core.db.repositories import admission, clusters, flows, ordering
from core.db.repositories.agents import AgentView, view
from core.db.repositories.flows import Turnover
from core.db.repositories.ordering import Turn
from core.domain.admission import Decision, Examined, Queue, QueueReason, Rules, conclude, examine
from core.domain.lifecycle import CURRENT, LIVING, WAITING
from core.domain.templates import Pool
from core.domain.tiers import Tier
from core.domain.waits import Wait
from core.errors import NotFound

_LIVING = [state.value for state in LIVING]
_WAITING = [state.value for state in WAITING]
# Whoever waits for something else waits for it in every tier.
_BY_TURN = frozenset({QueueReason.AHEAD, QueueReason.NO_NODE, QueueReason.STARTING})


class Place(BaseModel):
    """Where a request that has to wait would stand."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    position: int
    # Of each tier, how many wait before it; those that lost their place go before all and count with their tier.
    ahead: dict[Tier, int]
    wait: Wait


class Explanation(BaseModel):
    """`existing`: the project's agent lives, so a start answers with it, and nothing was decided.

    `better` is the place that the same request would have in the next tier that is served before the user's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    existing: AgentView | None = None
    decision: Decision
    examined: tuple[Examined, ...]
    place: Place | None = None
    better: tuple[Tier, Place] | None = None
    # The user's agents that count against the limit, the longest unused first.
    others: tuple[AgentView, ...] = ()


async def explain(
    session: AsyncSession,
    user_id: str,
    project_id: str,
    pool_name: str,
    pool: Pool,
    rules: Rules,
    now: datetime,
    template: str | None = None,
) -> Explanation:
    """Takes no lock, so what happens next may differ from it. Raises `NotFound` (`unknown_user`)."""
    user = await session.get(User, user_id)
    if user is None:
        raise NotFound("no such user", code="unknown_user")
    living = select(Agent).where(Agent.user_id == user_id, Agent.state.in_(_LIVING)).order_by(Agent.last_activity_at)
    rows = list((await session.scalars(living)).all())
    mine = [row for row in rows if row.project_id == project_id]
    ending = any(row.state not in CURRENT for row in mine)
    room = await clusters.room(session, pool_name, pool, now, rules.max_waiting, template, counted=1)
    project_living = await admission.living_of_project(session, project_id, rules)
    standing = admission.standing_of(user, rows, ending, rules, now, project_living)
    turn = await ordering.turn_of(session, user_id, project_id, rows, rules.ageing, now)
    tiers = [tier for tier in (standing.tier, _next_tier(standing.tier)) if tier is not None]
    line = await _line(session, pool_name, turn, tiers)
    room = room.model_copy(update={"waiting": line.waiting})
    examined = examine(standing, room)
    decision = conclude(examined)
    # One that is draining is kept by a start while it can be.
    existing = next((view(row) for row in mine if row.state in CURRENT or row.keepable), None)
    place, better = None, None
    if isinstance(decision, Queue):
        turnover = await flows.turnover(session, pool_name, rules, room)
        place, *higher = [line.place(turn, tier, turnover) for tier in tiers]
        if decision.reason in _BY_TURN and higher and higher[0].position < place.position:
            better = (tiers[1], higher[0])
    return Explanation(
        existing=existing,
        decision=decision,
        examined=examined,
        place=place,
        better=better,
        others=tuple(view(row) for row in rows if row.state in CURRENT),
    )


class _Line(BaseModel):
    """Everybody who waits, and of each tier how many of them would go before the request with the key of another."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    waiting: int
    ahead: dict[Tier, dict[Tier, int]]

    def place(self, turn: Turn, tier: Tier, turnover: Turnover) -> Place:
        ahead = self.ahead[tier]
        position = sum(ahead.values()) + 1
        wait = turnover.wait(position, turn.key(tier), tier, turn.others, turn.since)
        return Place(position=position, ahead=ahead, wait=wait)


async def _line(session: AsyncSession, pool: str, turn: Turn, tiers: Sequence[Tier]) -> _Line:
    """One look at the line, for the request with each of these tiers."""
    order = tuple_(Agent.order_front, Agent.order_tier, Agent.order_fair, Agent.order_at)
    # Of two that are equal, the one that is there already goes first.
    before = [func.count().filter(order <= turn.key(tier).place()) for tier in tiers]
    query = (
        select(Agent.tier, func.count(), *before)
        .where(Agent.pool == pool, Agent.state.in_(_WAITING))
        .group_by(Agent.tier)
    )
    counts = {Tier(row[0]): row[1:] for row in (await session.execute(query)).all()}
    return _Line(
        waiting=sum(each[0] for each in counts.values()),
        ahead={
            tier: {each: int(counts[each][number]) if each in counts else 0 for each in Tier}
            for number, tier in enumerate(tiers, 1)
        },
    )


def _next_tier(tier: Tier) -> Tier | None:
    after = list(Tier)[list(Tier).index(tier) + 1 :]
    return after[0] if after else None
