"""The places of many users in a pool's queue at once, for live updates."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent
from core.db.repositories import flows, queue
from core.domain.admission import Rules
from core.domain.lifecycle import WAITING
from core.domain.waits import Wait


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


async def places(session: AsyncSession, pool: str, users: set[str], rules: Rules) -> list[Place]:
    """Of everybody who waits in a pool, the places of these users."""
    found = await queue.line(session, pool, users=users)
    if not found:
        return []
    turnover = await flows.turnover(session, pool, rules)
    return [
        Place(
            agent_id=each.agent_id,
            user_id=each.user_id,
            project_id=each.project_id,
            position=each.position,
            wait=each.wait(turnover),
        )
        for each in found
    ]
