"""The event log: written beside the state it tells of, read by agent and by user."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import BindParameter, DateTime, Integer, TextClause, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import OF_LIFE, Agent, EventRow, User
from core.db.notify import Wake
from core.domain.events import Event, EventKind
from core.domain.lifecycle import AgentState
from core.domain.notices import Wanted, wanted


class Fact(BaseModel):
    """What happened, before it has its place in the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: EventKind
    state: AgentState | None = None
    reason: str | None = None
    detail: dict[str, Any] = {}


# One round trip an event: the counter, the rows, the notices and the wake-ups. `source` names the agent they belong to.
# The user's counter is the last row that is locked, so that commit order is cursor order and nobody waits in a ring.
# A notice is made for the channels that are open, with all that it is to say; nobody watches an agent that has not
# reported a viewer for three reports.
_LOG = f"""
counted AS (
    UPDATE users SET event_cursor = event_cursor + :count FROM source
    WHERE users.user_id = source.user_id RETURNING users.event_cursor, users.email
), logged AS (
    INSERT INTO events (user_id, cursor, agent_id, project_id, seq, at, kind, state, reason, detail)
    SELECT source.user_id, counted.event_cursor - :count + fact.n, source.agent_id, source.project_id,
           source.event_seq - :count + fact.n, :at, fact.kind, fact.state, fact.reason, fact.detail
    FROM source, counted,
         jsonb_to_recordset(:facts) AS fact(n int, kind text, state text, reason text, detail jsonb)
), noticed AS (
    INSERT INTO notices (notice_id, channel, kind, user_id, project_id, agent_id, recipient, event)
    SELECT coalesce(
               source.agent_id || '-' || (source.event_seq - :count + fact.n),
               'user-' || left(encode(sha256(convert_to(source.user_id, 'UTF8')), 'hex'), 32)
                   || '-' || (counted.event_cursor - :count + fact.n)
           ) || '-' || channel.channel,
           channel.channel, fact.kind, source.user_id, source.project_id, source.agent_id,
           CASE channel.channel WHEN 'email' THEN counted.email END,
           jsonb_build_object(
               'at', CAST(:at AS timestamptz), 'seq', source.event_seq - :count + fact.n,
               'cursor', counted.event_cursor - :count + fact.n,
               'state', fact.state, 'reason', fact.reason, 'detail', fact.detail
           )
    FROM source, counted, notice_channels AS channel,
         jsonb_to_recordset(:facts)
             AS fact(n int, kind text, state text, reason text, detail jsonb, webhook bool, email text)
    WHERE channel.open AND CASE channel.channel
        WHEN 'webhook' THEN fact.webhook
        WHEN 'email' THEN counted.email IS NOT NULL AND (fact.email = 'always' OR fact.email = 'away' AND NOT EXISTS (
            SELECT FROM channels WHERE channels.agent_id = source.agent_id
                AND channels.health -> 'viewers' > '0' AND channels.last_seen_at > :at - interval '90 seconds'
        ))
    END
    ON CONFLICT (notice_id) DO NOTHING
    RETURNING channel
), rung AS (
    SELECT pg_notify('{Wake.NOTICES}', channel) FROM noticed
)
SELECT pg_notify('{Wake.EVENTS}', source.user_id), (SELECT count(*) FROM rung)
"""  # noqa: S608  names of ours


def logging(source: str, *parameters: BindParameter[Any], before: str | None = None) -> TextClause:
    """The statement that logs facts of the one row that the query `source` yields (agent, user, project, event_seq).

    Its parameters are those of `log_values` besides `source`'s own. It returns a row when `source` did, with the
    columns of the query `before`, which sees what stood there before this statement.
    """
    beside = "FROM source" if before is None else f", known.* FROM source LEFT JOIN ({before}) AS known ON true"
    clause = text(f"WITH source AS ({source}), {_LOG} {beside}")
    types = (bindparam("facts", type_=JSONB), bindparam("at", type_=DateTime(timezone=True)))
    return clause.bindparams(bindparam("count", type_=Integer), *types, *parameters)


def log_values(at: datetime, facts: Sequence[Fact]) -> dict[str, Any]:
    told = zip(facts, wanted(facts), strict=True)
    return {"at": at, "count": len(facts), "facts": [_columns(n, *each) for n, each in enumerate(told, 1)]}


_OF_KNOWN = logging(
    "SELECT CAST(:agent AS text) AS agent_id, CAST(:user AS text) AS user_id, CAST(:project AS text) AS project_id,"
    " CAST(:seq AS int) AS event_seq"
)


async def append(session: AsyncSession, agent: Agent, at: datetime, *facts: Fact) -> None:
    """Add `facts` to the life of `agent`, whose row the caller has locked, and wake its readers on commit."""
    agent.event_seq += len(facts)
    await session.flush()
    who = {"agent": agent.agent_id, "user": agent.user_id, "project": agent.project_id, "seq": agent.event_seq}
    await session.execute(_OF_KNOWN, {**who, **log_values(at, facts)})


async def record_rejection(
    session: AsyncSession, user_id: str, project_id: str, at: datetime, reason: str, detail: dict[str, Any]
) -> None:
    """A request that was refused has no agent; its event stands under the user alone."""
    fact = Fact(kind=EventKind.REJECTED, reason=reason, detail=detail)
    who = {"agent": None, "user": user_id, "project": project_id, "seq": None}
    await session.execute(_OF_KNOWN, {**who, **log_values(at, [fact])})


async def refused_since(session: AsyncSession, user_id: str, project_id: str, reason: str, since: datetime) -> bool:
    """Whether an event tells that user of a refusal of that kind already."""
    told = select(EventRow.cursor).where(
        EventRow.agent_id.is_(None),
        EventRow.at > since,
        EventRow.user_id == user_id,
        EventRow.project_id == project_id,
        EventRow.kind == EventKind.REJECTED.value,
        EventRow.reason == reason,
    )
    return (await session.execute(told.limit(1))).first() is not None


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


async def count(session: AsyncSession, agent_id: str, kind: EventKind, since: datetime) -> int:
    """How many events of a kind, which is not that of commands, an agent had."""
    said: BindParameter[str] = bindparam("said", kind.value, literal_execute=True)
    theirs = (
        (EventRow.agent_id == agent_id) & text(f"events.{OF_LIFE}") & (EventRow.kind == said) & (EventRow.at > since)
    )
    return await session.scalar(select(func.count()).select_from(EventRow).where(theirs)) or 0


async def head(session: AsyncSession, user_id: str) -> int:
    """The cursor of the user's newest event, 0 when there is none."""
    return await session.scalar(select(User.event_cursor).where(User.user_id == user_id)) or 0


def _columns(n: int, fact: Fact, notice: Wanted) -> dict[str, Any]:
    state = fact.state.value if fact.state else None
    told = {"n": n, "kind": fact.kind.value, "state": state, "reason": fact.reason, "detail": fact.detail}
    return {**told, "webhook": notice.webhook, "email": notice.email.value if notice.email else None}


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
