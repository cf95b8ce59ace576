"""What a start would lead to now: the decision of `admission`, made on the same numbers and carried out by nobody."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, User
from core.db.repositories import admission, clusters, queue
from core.db.repositories.admission import Rules
from core.db.repositories.agents import AgentView, view
from core.domain.admission import Decision, Examined, Queue, QueueReason, conclude, examine
from core.domain.lifecycle import CURRENT, LIVING, WAITING
from core.domain.queueing import Wait, order_key
from core.domain.templates import Pool
from core.domain.tiers import Tier
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
    room = await clusters.room(session, pool_name, pool, now, rules.max_waiting, template)
    project_living = await admission.living_of_project(session, project_id, rules)
    standing = admission.standing_of(user, rows, bool(mine), rules, now, project_living)
    examined = examine(standing, room)
    decision = conclude(examined)
    # One that is draining is kept by a start while it can be.
    existing = next((view(row) for row in mine if row.state in CURRENT or row.keepable), None)
    place, better = None, None
    if isinstance(decision, Queue):
        place = await _place(session, pool_name, standing.tier, rules.lifespan_minutes, now)
        higher = _next_tier(standing.tier)
        if higher is not None and decision.reason in _BY_TURN:
            found = await _place(session, pool_name, higher, rules.lifespan_minutes, now)
            better = (higher, found) if found.position < place.position else None
    return Explanation(
        existing=existing,
        decision=decision,
        examined=examined,
        place=place,
        better=better,
        others=tuple(view(row) for row in rows if row.state in CURRENT),
    )


async def _place(session: AsyncSession, pool: str, tier: Tier, lifespan_minutes: float, now: datetime) -> Place:
    key = order_key(tier, now)
    # Whoever waits came earlier, so time decides for them within a tier.
    before = or_(Agent.order_front < key.front, Agent.order_tier <= key.tier_rank)
    query = (
        select(Agent.tier, func.count())
        .where(Agent.pool == pool, Agent.state.in_(_WAITING), before)
        .group_by(Agent.tier)
    )
    found = {Tier(name): int(number) for name, number in (await session.execute(query)).all()}
    position = sum(found.values()) + 1
    return Place(
        position=position,
        ahead={each: found.get(each, 0) for each in Tier},
        wait=await queue.wait_of(session, pool, position, lifespan_minutes),
    )


def _next_tier(tier: Tier) -> Tier | None:
    after = list(Tier)[list(Tier).index(tier) + 1 :]
    return after[0] if after else None
