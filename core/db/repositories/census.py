"""Numbers over all agents, for metrics and operators."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, PoolOverride
from core.domain.lifecycle import LIVING, AgentState

_LIVING = [state.value for state in LIVING]


async def living(session: AsyncSession) -> dict[tuple[str, AgentState], int]:
    """Living agents by pool and state; what is missing is zero."""
    query = select(Agent.pool, Agent.state, func.count()).where(Agent.state.in_(_LIVING))
    rows = (await session.execute(query.group_by(Agent.pool, Agent.state))).all()
    return {(pool, AgentState(state)): int(count) for pool, state, count in rows}


class Override(BaseModel):
    """What an operator changed of a pool; None is nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    capacity: int | None
    paused: bool


async def override_of(session: AsyncSession, pool: str) -> Override | None:
    row = await session.get(PoolOverride, pool)
    return Override(capacity=row.capacity, paused=row.paused) if row else None


async def forget_capacity(session: AsyncSession, pool: str) -> None:
    """Let the settings (or what fits) say the pool's capacity again."""
    await session.execute(update(PoolOverride).where(PoolOverride.pool == pool).values(capacity=None))
