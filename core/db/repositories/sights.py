"""One attempt as a look at it finds its rows: where it stands, whether it came up, and when something last went on."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Channel
from core.db.repositories import commands
from core.domain.lifecycle import AgentState


class Sight(BaseModel):
    """`state` and `attempt` are the row's, which may be ahead of whoever looks; `ready` is of the attempt looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    state: AgentState
    attempt: int
    last_activity_at: datetime
    admitted: bool
    ready: bool


async def of(session: AsyncSession, agent_id: str, attempt: int, at: datetime) -> Sight:
    """A command that runs is activity at this very moment, and one that ended was until then: a task may take longer
    than an agent may be idle. Raises `NoResultFound` when there is no such agent.
    """
    query = (
        select(
            Agent.state,
            Agent.attempt,
            func.greatest(Agent.last_activity_at, commands.last_answer()).label("last_activity_at"),
            Agent.admitted_at,
            Channel.ready_at,
            commands.runs(at).label("busy"),
        )
        .outerjoin(Channel, (Channel.agent_id == Agent.agent_id) & (Channel.attempt == attempt))
        .where(Agent.agent_id == agent_id)
    )
    row = (await session.execute(query)).one()
    return Sight(
        state=AgentState(row.state),
        attempt=row.attempt,
        last_activity_at=max(row.last_activity_at, at) if row.busy else row.last_activity_at,
        admitted=row.admitted_at is not None,
        ready=row.ready_at is not None,
    )
