"""What is over and was kept long enough: ended agents with all that is theirs, refusals and notices, by the batch."""

from datetime import datetime

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, EventRow, Notice
from core.domain.lifecycle import FINAL

_FINAL = [state.value for state in FINAL]


async def forget_ended(session: AsyncSession, ended_before: datetime, most: int) -> int:
    """Delete at most `most` agents that ended before then, with events, commands and artefacts; return how many.

    The longest gone go first. A row that somebody else deletes just now is left to them.
    """
    query = (
        select(Agent.agent_id)
        .where(Agent.state.in_(_FINAL), Agent.ended_at < ended_before)
        .order_by(Agent.ended_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    gone = list((await session.scalars(query)).all())
    if gone:
        await session.execute(delete(EventRow).where(EventRow.agent_id.in_(gone)))
        # Commands, channels and artefacts go with their agent.
        await session.execute(delete(Agent).where(Agent.agent_id.in_(gone)))
    return len(gone)


async def forget_refusals(session: AsyncSession, before: datetime, most: int) -> int:
    """Delete at most `most` events of requests that were refused before then; they belong to no agent."""
    old = (
        select(EventRow.user_id, EventRow.cursor)
        .where(EventRow.agent_id.is_(None), EventRow.at < before)
        .limit(most)
        .subquery()
    )
    done = await session.execute(
        delete(EventRow).where(EventRow.user_id == old.c.user_id, EventRow.cursor == old.c.cursor)
    )
    return done.rowcount if isinstance(done, CursorResult) else 0


async def forget_notices(session: AsyncSession, ended_before: datetime, most: int) -> int:
    """Delete at most `most` notices that were sent, or given up, before then. One that is still to be sent stays."""
    old = select(Notice.notice_id).where(Notice.ended_at < ended_before).limit(most).with_for_update(skip_locked=True)
    done = await session.execute(delete(Notice).where(Notice.notice_id.in_(old)))
    return done.rowcount if isinstance(done, CursorResult) else 0
