"""Places in line: what a request's is made of when it comes, and what replaces it while it waits."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent
from core.db.repositories import credits, locks, queue
from core.domain.lifecycle import WAITING
from core.domain.queueing import FRONT, OrderKey, order_key
from core.domain.tiers import Tier

_WAITING = [state.value for state in WAITING]


class Turn(BaseModel):
    """When a request counts from and how many other agents its user has; with a tier that makes its key."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    since: datetime
    others: int
    ageing: timedelta | None
    # The user was evicted, and this makes good for it.
    owed: bool = False

    def key(self, tier: Tier) -> OrderKey:
        return order_key(tier, self.since, fair=self.others, ageing=self.ageing)


async def turn_of(
    session: AsyncSession,
    user_id: str,
    project_id: str,
    living: Sequence[Agent],
    ageing: timedelta | None,
    now: datetime,
) -> Turn:
    """The turn of a request that comes now, `living` being its user's agents; what is owed is not used up by asking.

    The agent of the same project that is just ending is no other one: this request takes its place.
    """
    evicted_at = await credits.owed(session, user_id, project_id, now)
    if evicted_at is not None:
        return Turn(since=evicted_at, others=0, ageing=ageing, owed=True)
    return Turn(since=now, others=sum(row.project_id != project_id for row in living), ageing=ageing)


async def change_tier(session: AsyncSession, user_id: str, tier: Tier, ageing: timedelta | None) -> list[str]:
    """Give the user's waiting agents the places of another tier, with arrival and fairness as they were; their pools.

    To be called before the user's own row is written: everybody locks agents first.
    """
    await locks.user(session, user_id)
    return await _replace(session, Agent.user_id == user_id, tier, ageing)


async def adopt_ageing(session: AsyncSession, ageing: timedelta | None) -> list[str]:
    """Give a new key to who waits with one of the other kind, from before ageing was turned on or off; their pools.

    Keys with ageing go before all that are without, so whoever has an old one would else be served last of all.
    """
    other = Agent.order_tier > 0 if ageing is not None else Agent.order_tier == 0
    return await _replace(session, other, None, ageing)


async def _replace(
    session: AsyncSession, which: ColumnElement[bool], tier: Tier | None, ageing: timedelta | None
) -> list[str]:
    waiting = Agent.state.in_(_WAITING)
    concerned = select(Agent.cluster).where(waiting, which).distinct()
    # In one order everywhere. No pass may give a slot to the next one because this one's row is just being written.
    for cluster in sorted((await session.scalars(concerned)).all()):
        await locks.cluster(session, cluster)
    rows = (await session.scalars(select(Agent).where(waiting, which).order_by(Agent.agent_id).with_for_update())).all()
    for row in rows:
        key = order_key(
            tier or Tier(row.tier),
            row.order_since,
            fair=row.order_others,
            front=row.order_front == FRONT,
            ageing=ageing,
        )
        if tier is not None:
            row.tier = tier.value
        row.order_tier, row.order_fair, row.order_at = key.tier_rank, key.fair, key.at
        # It was told of another place; its wait says nothing about that estimate.
        row.wait_estimate_minutes = row.wait_low_minutes = row.wait_high_minutes = None
    await session.flush()
    pools = sorted({row.pool for row in rows})
    for pool in pools:
        await queue.announce(session, pool)
    return pools
