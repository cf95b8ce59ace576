"""What an administrator changes of a running agent: its size, and the machine it is on."""

from datetime import datetime

from sqlalchemy import DateTime, Float, Integer, Text, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent
from core.db.repositories import events
from core.db.repositories.events import Fact
from core.db.repositories.moves import Moved, unmoved
from core.domain.sizes import Size


async def size(session: AsyncSession, agent_id: str) -> Size | None:
    """The size an agent was given; None while it has that of its template."""
    found = await session.execute(select(Agent.cpu_limit, Agent.memory_limit_mib).where(Agent.agent_id == agent_id))
    row = found.one_or_none()
    return size_of(row.cpu_limit, row.memory_limit_mib) if row is not None else None


def size_of(cpu_limit: float | None, memory_limit_mib: int | None) -> Size | None:
    if cpu_limit is None or memory_limit_mib is None:
        return None
    return Size(cpu=cpu_limit, memory_mib=memory_limit_mib)


_RESIZE = events.logging(
    """
    UPDATE agents SET cpu_limit = :cpu, memory_limit_mib = :memory, event_seq = event_seq + :count
    WHERE agent_id = :agent AND ended_at IS NULL
        AND (cpu_limit IS DISTINCT FROM :cpu OR memory_limit_mib IS DISTINCT FROM :memory)
    RETURNING agent_id, user_id, project_id, event_seq
    """,
    bindparam("cpu", type_=Float),
    bindparam("memory", type_=Integer),
)


async def resize(session: AsyncSession, agent_id: str, to: Size, at: datetime, told: Fact) -> Moved:
    """Write the size that this and all later attempts of a life have, and log it; once."""
    named = {"agent": agent_id, "cpu": to.cpu, "memory": to.memory_mib}
    resized = await session.execute(_RESIZE, {**named, **events.log_values(at, [told])})
    now = await unmoved(session, agent_id)
    return now.model_copy(update={"applied": resized.first() is not None})


_MIGRATE = events.logging(
    """
    UPDATE agents SET deadline_at = :deadline, reason = :reason, event_seq = event_seq + :count
    WHERE agent_id = :agent AND attempt = :attempt AND state = 'running'
        AND (reason IS DISTINCT FROM :reason OR deadline_at IS DISTINCT FROM :deadline)
    RETURNING agent_id, user_id, project_id, event_seq
    """,
    bindparam("deadline", type_=DateTime(timezone=True)),
    bindparam("reason", type_=Text),
)


async def warn_of_move(
    session: AsyncSession, agent_id: str, attempt: int, at: datetime, deadline_at: datetime, reason: str, told: Fact
) -> Moved:
    """Write when and why a running agent will be begun elsewhere, and log it; once."""
    named = {"agent": agent_id, "attempt": attempt, "deadline": deadline_at, "reason": reason}
    warned = await session.execute(_MIGRATE, {**named, **events.log_values(at, [told])})
    now = await unmoved(session, agent_id)
    return now.model_copy(update={"applied": warned.first() is not None})
