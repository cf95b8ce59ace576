"""The event log: written beside the state it tells of, read by agent and by user."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, EventRow, User
from core.domain.events import Event, EventKind
from core.domain.lifecycle import AgentState


class Fact(BaseModel):
    """What happened, before it has its place in the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: EventKind
    state: AgentState | None = None
    reason: str | None = None
    detail: dict[str, Any] = {}


async def append(session: AsyncSession, agent: Agent, at: datetime, *facts: Fact) -> None:
    """Add `facts` to the life of `agent`, whose row the caller has locked, and wake its readers on commit.

    The user's counter is the last row this locks, so that commit order is cursor order and nobody waits in a ring.
    """
    first_seq = agent.event_seq + 1
    agent.event_seq += len(facts)
    await session.flush()
    first = await _cursors(session, agent.user_id, len(facts))
    rows = [
        {
            "user_id": agent.user_id,
            "cursor": first + index,
            "agent_id": agent.agent_id,
            "project_id": agent.project_id,
            "seq": first_seq + index,
            "at": at,
            **_columns(fact),
        }
        for index, fact in enumerate(facts)
    ]
    await session.execute(insert(EventRow), rows)
    await _wake(session, agent.user_id)


async def record_rejection(
    session: AsyncSession, user_id: str, project_id: str, at: datetime, reason: str, detail: dict[str, Any]
) -> None:
    """A request that was refused has no agent; its event stands under the user alone."""
    cursor = await _cursors(session, user_id, 1)
    fact = Fact(kind=EventKind.REJECTED, reason=reason, detail=detail)
    row = {"user_id": user_id, "cursor": cursor, "agent_id": None, "project_id": project_id, "seq": None, "at": at}
    await session.execute(insert(EventRow), [{**row, **_columns(fact)}])
    await _wake(session, user_id)


async def of_agent(session: AsyncSession, agent_id: str, after_seq: int = 0, limit: int = 100) -> list[Event]:
    query = (
        select(EventRow)
        .where(EventRow.agent_id == agent_id, EventRow.seq > after_seq)
        .order_by(EventRow.seq)
        .limit(limit)
    )
    return [_event(row) for row in (await session.scalars(query)).all()]


async def of_user(session: AsyncSession, user_id: str, after_cursor: int, limit: int = 200) -> list[Event]:
    query = (
        select(EventRow).where(EventRow.user_id == user_id, EventRow.cursor > after_cursor).order_by(EventRow.cursor)
    )
    return [_event(row) for row in (await session.scalars(query.limit(limit))).all()]


async def head(session: AsyncSession, user_id: str) -> int:
    """The cursor of the user's newest event, 0 when there is none."""
    return await session.scalar(select(User.event_cursor).where(User.user_id == user_id)) or 0


def _columns(fact: Fact) -> dict[str, Any]:
    return {
        "kind": fact.kind.value,
        "state": fact.state and fact.state.value,
        "reason": fact.reason,
        "detail": fact.detail,
    }


async def _cursors(session: AsyncSession, user_id: str, count: int) -> int:
    """Take the next `count` cursors of the user and return the first."""
    counter = update(User).where(User.user_id == user_id).values(event_cursor=User.event_cursor + count)
    last = (await session.execute(counter.returning(User.event_cursor))).scalar_one()
    return int(last) - count + 1


async def _wake(session: AsyncSession, user_id: str) -> None:
    await session.execute(text("SELECT pg_notify('berth_events', :user)"), {"user": user_id})


def _event(row: EventRow) -> Event:
    return Event(
        cursor=row.cursor,
        agent_id=row.agent_id,
        project_id=row.project_id,
        seq=row.seq,
        at=row.at,
        kind=EventKind(row.kind),
        state=AgentState(row.state) if row.state else None,
        reason=row.reason,
        detail=row.detail,
    )
