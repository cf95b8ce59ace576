"""What is over and was kept long enough: ended agents with all that is theirs, refusals and notices, by the batch."""

from datetime import datetime

from sqlalchemy import ColumnElement, Select, delete, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, ArtefactRow, Command, EventRow, Notice
from core.db.portions import changed, portion
from core.db.repositories import artefacts
from core.domain.lifecycle import FINAL

_FINAL = [state.value for state in FINAL]
# Among so many agents at a time it is looked for what they left, however many are past their time.
_AGENTS_AT_ONCE = 500


async def forget_artefacts(session: AsyncSession, ended_before: datetime) -> int:
    """Delete some artefacts of agents that ended before then, about 64 MiB; return how many went."""
    longest_gone = _ended(ended_before).limit(_AGENTS_AT_ONCE)
    return await artefacts.remove(session, select(ArtefactRow).where(ArtefactRow.agent_id.in_(longest_gone)))


async def forget_commands(session: AsyncSession, ended_before: datetime, most: int) -> int:
    """Delete at most `most` commands of agents that ended before then, about 64 MiB; return how many."""
    longest_gone = _ended(ended_before).limit(_AGENTS_AT_ONCE)
    # As large as they are stored, which is found without reading them.
    size = func.pg_column_size(Command.parameters) + func.coalesce(func.pg_column_size(Command.result), 0)
    query = select(Command.agent_id, Command.command_id, size).where(Command.agent_id.in_(longest_gone)).limit(most)
    due = (await session.execute(query.with_for_update(skip_locked=True))).all()
    gone = portion(((agent_id, command_id), stored) for agent_id, command_id, stored in due)
    if gone:
        await session.execute(delete(Command).where(tuple_(Command.agent_id, Command.command_id).in_(gone)))
    return len(gone)


async def forget_events(session: AsyncSession, ended_before: datetime, most: int) -> int:
    """Delete at most `most` events of agents that ended before then and have left nothing else; return how many."""
    longest_gone = _ended(ended_before).where(_has_none_of(ArtefactRow, Command)).limit(_AGENTS_AT_ONCE)
    query = select(EventRow.user_id, EventRow.cursor).where(EventRow.agent_id.in_(longest_gone)).limit(most)
    due = query.with_for_update(skip_locked=True)
    return await changed(session, delete(EventRow).where(tuple_(EventRow.user_id, EventRow.cursor).in_(due)))


async def forget_ended(session: AsyncSession, ended_before: datetime, most: int) -> int:
    """Delete at most `most` agents that ended before then and of which nothing else is left; return how many.

    The longest gone go first. One that has artefacts, commands or events stays until these went, in parts: they may be
    GiBs, and a batch that cannot be deleted in a statement's time would be the next one again, for ever. A row that
    somebody else deletes just now is left to them.
    """
    nothing_left = _has_none_of(ArtefactRow, Command, EventRow)
    query = _ended(ended_before).where(nothing_left).limit(most).with_for_update(skip_locked=True)
    gone = list((await session.scalars(query)).all())
    if gone:
        # Channels go with their agent.
        await session.execute(delete(Agent).where(Agent.agent_id.in_(gone)))
    return len(gone)


def _ended(before: datetime) -> Select[str]:
    """Ids of the agents that ended before then, the longest gone first."""
    return select(Agent.agent_id).where(Agent.state.in_(_FINAL), Agent.ended_at < before).order_by(Agent.ended_at)


def _has_none_of(*kinds: type[ArtefactRow | Command | EventRow]) -> ColumnElement[bool]:
    """Of a query's agent."""
    return ~or_(*(select(kind.agent_id).where(kind.agent_id == Agent.agent_id).exists() for kind in kinds))


async def forget_refusals(session: AsyncSession, before: datetime, most: int) -> int:
    """Delete at most `most` events of requests that were refused before then; they belong to no agent."""
    old = (
        select(EventRow.user_id, EventRow.cursor)
        .where(EventRow.agent_id.is_(None), EventRow.at < before)
        .limit(most)
        .subquery()
    )
    theirs = delete(EventRow).where(EventRow.user_id == old.c.user_id, EventRow.cursor == old.c.cursor)
    return await changed(session, theirs)


async def forget_notices(session: AsyncSession, ended_before: datetime, most: int) -> int:
    """Delete at most `most` notices that were sent, or given up, before then. One that is still to be sent stays."""
    old = select(Notice.notice_id).where(Notice.ended_at < ended_before).limit(most).with_for_update(skip_locked=True)
    return await changed(session, delete(Notice).where(Notice.notice_id.in_(old)))
