"""Scheduled starts: booked by their users, taken up when they are due, ended once."""

from collections.abc import Collection
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ARRAY, Text, any_, delete, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import ScheduledStart
from core.db.portions import changed
from core.db.repositories import locks, places
from core.domain.schedule import MOST_PENDING, PENDING, ScheduledState, ScheduleReason
from core.errors import Conflict
from core.ids import new_scheduled_start_id

_PENDING = [state.value for state in PENDING]


class ScheduledView(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    scheduled_start_id: str
    user_id: str
    project_id: str
    template: str | None
    start_at: datetime
    state: ScheduledState
    reason: str | None
    agent_id: str | None
    created_at: datetime
    ended_at: datetime | None


def view(row: ScheduledStart) -> ScheduledView:
    return ScheduledView(
        scheduled_start_id=row.scheduled_start_id,
        user_id=row.user_id,
        project_id=row.project_id,
        template=row.template,
        start_at=row.start_at,
        state=ScheduledState(row.state),
        reason=row.reason,
        agent_id=row.agent_id,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


async def book(
    session: AsyncSession, user_id: str, project_id: str, template: str | None, start_at: datetime, now: datetime
) -> ScheduledView:
    """Write it down. Raises `Conflict` (`too_many_scheduled_starts`)."""
    await locks.bookings(session, user_id)
    if await pending_of(session, user_id) >= MOST_PENDING:
        raise Conflict(
            f"{MOST_PENDING} of your starts are scheduled already",
            code=ScheduleReason.TOO_MANY.value,
            action="cancel_a_scheduled_start",
        )
    row = ScheduledStart(
        scheduled_start_id=new_scheduled_start_id(),
        user_id=user_id,
        project_id=project_id,
        template=template,
        start_at=start_at,
        state=ScheduledState.SCHEDULED.value,
        created_at=now,
    )
    session.add(row)
    await session.flush()
    return view(row)


async def pending_of(session: AsyncSession, user_id: str) -> int:
    """How many of the user's are still to come."""
    query = select(func.count()).where(ScheduledStart.user_id == user_id, ScheduledStart.state.in_(_PENDING))
    return await session.scalar(query) or 0


async def get(session: AsyncSession, scheduled_start_id: str) -> ScheduledView | None:
    row = await session.get(ScheduledStart, scheduled_start_id)
    return view(row) if row else None


async def page(
    session: AsyncSession,
    user_id: str,
    *,
    state: ScheduledState | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[ScheduledView], str | None]:
    """One page of a user's, the last booked first, and the cursor of the next page."""
    query = select(ScheduledStart).where(ScheduledStart.user_id == user_id)
    if state is not None:
        query = query.where(ScheduledStart.state == state.value)
    by = ScheduledStart.created_at, ScheduledStart.scheduled_start_id
    rows, onward = await places.page(session, query, *by, limit, cursor)
    return [view(row) for row in rows], onward


async def due(session: AsyncSession, before: datetime, most: int) -> list[ScheduledView]:
    """Those still to come whose time lies before then, the longest due first."""
    query = (
        select(ScheduledStart)
        .where(ScheduledStart.state.in_(_PENDING), ScheduledStart.start_at < before)
        .order_by(ScheduledStart.start_at)
        .limit(most)
    )
    return [view(row) for row in (await session.scalars(query)).all()]


async def without_future(session: AsyncSession, names: Collection[str], over_before: datetime) -> list[str]:
    """Those of `names` that are no more to come: over since before then, or not there at all."""
    kept = or_(ScheduledStart.state.in_(_PENDING), ScheduledStart.ended_at >= over_before)
    # As one array: a list of parameters has 32,767 at most.
    named = ScheduledStart.scheduled_start_id == any_(literal([*names], ARRAY(Text)))
    query = select(ScheduledStart.scheduled_start_id).where(named, kept)
    to_come = set((await session.scalars(query)).all())
    return [name for name in names if name not in to_come]


async def lock(session: AsyncSession, scheduled_start_id: str) -> ScheduledView | None:
    """The row, which nobody else moves until this transaction is over."""
    row = await session.get(ScheduledStart, scheduled_start_id, with_for_update=True, populate_existing=True)
    return view(row) if row else None


async def move(
    session: AsyncSession,
    scheduled_start_id: str,
    to: ScheduledState,
    now: datetime,
    *,
    reason: str | None = None,
    agent_id: str | None = None,
) -> ScheduledView:
    """Write a row that the caller has locked."""
    row = await session.get_one(ScheduledStart, scheduled_start_id)
    row.state, row.reason, row.agent_id = to.value, reason, agent_id
    row.ended_at = None if to in PENDING else now
    await session.flush()
    return view(row)


async def withdraw(
    session: AsyncSession, scheduled_start_id: str, reason: ScheduleReason, now: datetime
) -> ScheduledView | None:
    """Cancel it unless it is past that, and return what it is then."""
    found = await lock(session, scheduled_start_id)
    if found is None or found.state is not ScheduledState.SCHEDULED:
        return found
    return await move(session, scheduled_start_id, ScheduledState.CANCELLED, now, reason=reason.value)


async def forget_ended(session: AsyncSession, ended_before: datetime, most: int) -> int:
    """Delete at most `most` that ended before then; return how many."""
    old = select(ScheduledStart.scheduled_start_id).where(ScheduledStart.ended_at < ended_before).limit(most)
    return await changed(session, delete(ScheduledStart).where(ScheduledStart.scheduled_start_id.in_(old)))
