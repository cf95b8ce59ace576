"""Everybody's place in a pool's queue at once, for live updates."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent
from core.db.repositories import queue
from core.domain.lifecycle import HOLDING, WAITING
from core.domain.queueing import Wait, estimate_wait


class Place(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    user_id: str
    project_id: str
    position: int
    wait: Wait


async def anyone(session: AsyncSession, user_ids: set[str]) -> bool:
    """Whether any of these users waits for an agent."""
    query = select(exists().where(Agent.state.in_(WAITING), Agent.user_id.in_(user_ids)))
    return bool(await session.scalar(query))


async def places(session: AsyncSession, pool: str, lifespan_minutes: float) -> list[Place]:
    positions = await queue.positions(session, pool)
    if not positions:
        return []
    active = await session.scalar(select(func.count()).where(Agent.pool == pool, Agent.state.in_(HOLDING))) or 0
    mean = await queue.mean_life_minutes(session, pool, lifespan_minutes)
    query = select(Agent.agent_id, Agent.user_id, Agent.project_id).where(Agent.pool == pool, Agent.state.in_(WAITING))
    return [
        Place(
            agent_id=row.agent_id,
            user_id=row.user_id,
            project_id=row.project_id,
            position=positions[row.agent_id],
            wait=estimate_wait(positions[row.agent_id], active, mean),
        )
        for row in await session.execute(query)
        if row.agent_id in positions
    ]
