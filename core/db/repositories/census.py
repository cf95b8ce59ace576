"""Numbers over all agents, for metrics and operators."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Cluster
from core.domain.lifecycle import LIVING, WAITING, AgentState
from core.domain.queueing import FRONT
from core.domain.thresholds import Look, look_of

_LIVING = [state.value for state in LIVING]
_WAITING = [state.value for state in WAITING]


async def living(session: AsyncSession) -> dict[tuple[str, AgentState], int]:
    """Living agents by pool and state; what is missing is zero."""
    query = select(Agent.pool, Agent.state, func.count()).where(Agent.state.in_(_LIVING))
    rows = (await session.execute(query.group_by(Agent.pool, Agent.state))).all()
    return {(pool, AgentState(state)): int(count) for pool, state, count in rows}


class Measured(BaseModel):
    """The last look at a cluster, however old, and how many of its agents were evicted since ever, by reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    measured_at: datetime
    choked: bool
    look: Look | None
    evictions: Mapping[str, int]


async def measured(session: AsyncSession) -> dict[str, Measured]:
    """By cluster."""
    rows = await session.scalars(select(Cluster))
    return {
        row.cluster: Measured(
            measured_at=row.measured_at, choked=row.choked, look=look_of(row.detail), evictions=row.evictions
        )
        for row in rows.all()
    }


async def longest_waits(session: AsyncSession, now: datetime) -> dict[str, float]:
    """Of each pool in which somebody waits, for how many seconds the longest has."""
    # Who gave its slot back waits since then.
    since = case((Agent.order_front == FRONT, Agent.last_activity_at), else_=Agent.created_at)
    query = select(Agent.pool, func.min(since)).where(Agent.state.in_(_WAITING)).group_by(Agent.pool)
    return {pool: (now - since).total_seconds() for pool, since in (await session.execute(query)).all()}
