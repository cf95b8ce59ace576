"""What a start would lead to now: the decision of `admission`, made on the same numbers and carried out by nobody."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, User
from core.db.repositories import admission, clusters, flows, ordering
from core.db.repositories.admission import Rules
from core.db.repositories.agents import AgentView, view
from core.db.repositories.ordering import Turn
from core.domain.admission import Decision, Examined, Queue, QueueReason, conclude, examine
from core.domain.lifecycle import CURRENT, LIVING, WAITING
from core.domain.templates import Pool
from core.domain.tiers import Tier
from core.domain.waits import Wait
from core.errors import NotFound

_LIVING = [state.value for state in LIVING]
_WAITING = [state.value for state in WAITING]
# Whoever waits for something else waits for it in every tier.
_BY_TURN = frozenset({QueueReason.AHEAD, QueueReason.NO_NODE})


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
    session: AsyncSession, user_id: str, project_id: str, pool_name: str, pool: Pool, rules: Rules, now: datetime
) -> Explanation:
    """Takes no lock, so what happens next may differ from it. Raises `NotFound` (`unknown_user`)."""
    user = await session.get(User, user_id)
    if user is None:
        raise NotFound("no such user", code="unknown_user")
    living = select(Agent).where(Agent.user_id == user_id, Agent.state.in_(_LIVING)).order_by(Agent.last_activity_at)
    rows = list((await session.scalars(living)).all())
    mine = [row for row in rows if row.project_id == project_id]
    room = await clusters.room(session, pool_name, pool, now, rules.max_waiting)
    standing = admission.standing_of(user, rows, bool(mine), rules.limits, now)
    examined = examine(standing, room)
    decision = conclude(examined)
    # One that is draining is kept by a start while it can be.
    existing = next((view(row) for row in mine if row.state in CURRENT or row.keepable), None)
    place, better = None, None
    if isinstance(decision, Queue):
        turn = await ordering.turn_of(session, user_id, project_id, rows, rules.ageing, now)
        place = await _place(session, pool_name, turn, standing.tier, rules.lifespan_minutes)
        higher = _next_tier(standing.tier)
        if higher is not None and decision.reason in _BY_TURN:
            found = await _place(session, pool_name, turn, higher, rules.lifespan_minutes)
            better = (higher, found) if found.position < place.position else None
    return Explanation(
        existing=existing,
        decision=decision,
        examined=examined,
        place=place,
        better=better,
        others=tuple(view(row) for row in rows if row.state in CURRENT),
    )


async def _place(session: AsyncSession, pool: str, turn: Turn, tier: Tier, lifespan_minutes: float) -> Place:
    key = turn.key(tier)
    # Of two that are equal, the one that is there already goes first.
    before = tuple_(Agent.order_front, Agent.order_tier, Agent.order_fair, Agent.order_at) <= key.place()
    query = (
        select(Agent.tier, func.count())
        .where(Agent.pool == pool, Agent.state.in_(_WAITING), before)
        .group_by(Agent.tier)
    )
    found = {Tier(name): int(number) for name, number in (await session.execute(query)).all()}
    position = sum(found.values()) + 1
    turnover = await flows.turnover(session, pool)
    return Place(
        position=position,
        ahead={each: found.get(each, 0) for each in Tier},
        wait=turnover.wait(position, key, tier, turn.others, turn.since, lifespan_minutes),
    )


def _next_tier(tier: Tier) -> Tier | None:
    after = list(Tier)[list(Tier).index(tier) + 1 :]
    return after[0] if after else None
