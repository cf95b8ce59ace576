"""Moves: an agent's row along the legal edges, each with its events in one statement, and once."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ARRAY, Boolean, DateTime, Integer, Row, Text, TextClause, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import OF_LIFE, Agent
from core.db.notify import Wake, notify
from core.db.repositories import commands, events, tickets
from core.db.repositories.agents import fact
from core.db.repositories.events import Fact
from core.domain.events import EventKind
from core.domain.lifecycle import FINAL, AgentState, legal
from core.errors import InvalidRequest


class Moved(BaseModel):
    """`applied` is False when the row had moved on (or was there already); `state` is what it says now.

    `left` is the state it was in before a write that was applied, and `since` when it had come there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    applied: bool
    state: AgentState
    attempt: int
    left: AgentState | None = None
    since: datetime | None = None


async def move(
    session: AsyncSession,
    agent_id: str,
    attempt: int,
    to: AgentState,
    at: datetime,
    *facts: Fact,
    only_from: AgentState | None = None,
    **changes: Any,
) -> Moved:
    """Move one attempt of an agent along a legal edge and log `facts`; a repeated or late call changes nothing.

    `only_from`: where two edges lead there, the one that is meant: a late call for one must not go along the other.
    `changes` are further columns. A final state ends the agent: its token dies, its open commands and tickets too.
    Raises `InvalidRequest` (`not_found`) when there is no such agent.
    """
    if to in FINAL:
        changes |= {"ended_at": at, "token_hash": None, "deadline_at": None, "keepable": False}
    before = [state.value for state in AgentState if legal(state, to) and only_from in (None, state)]
    named = {"agent": agent_id, "attempt": attempt, "to": to.value, "before": before}
    moved = await session.execute(_moving(tuple(changes)), {**named, **changes, **events.log_values(at, facts)})
    was = moved.first()
    if was is None:
        return await unmoved(session, agent_id)
    if to in FINAL:
        await commands.abandon(session, agent_id, None, at)
        await tickets.revoke(session, agent_id)
        await notify(session, Wake.CHANNEL, agent_id)
    return _applied(was, to, attempt)


# Which state a row was in and since when: since the first event after the last one that tells of another state. Answers
# to commands begin no state, and there may be a million.
_LEFT = f"""
    SELECT was.state AS left_state, (
        SELECT min(came.at) FROM events AS came
        WHERE came.agent_id = was.agent_id AND came.state = was.state AND came.{OF_LIFE} AND came.seq > coalesce((
            SELECT max(other.seq) FROM events AS other
            WHERE other.agent_id = was.agent_id AND other.state <> was.state AND other.{OF_LIFE}
        ), 0)
    ) AS since FROM agents AS was WHERE was.agent_id = :agent
"""  # noqa: S608  a constant of ours

_NOW_IN = text(_LEFT)


async def since(session: AsyncSession, agent_id: str) -> datetime | None:
    """When an agent came to the state it is in."""
    row = (await session.execute(_NOW_IN, {"agent": agent_id})).first()
    return row.since if row is not None else None


def _applied(was: Row[Any], to: AgentState, attempt: int) -> Moved:
    left = AgentState(was.left_state) if was.left_state is not None else None
    return Moved(applied=True, state=to, attempt=attempt, left=left, since=was.since)


_BEGIN = events.logging(
    """
    UPDATE agents SET state = 'starting', attempt = :attempt, started_at = :at, deadline_at = :deadline,
        ready_at = NULL, reason = NULL, token_hash = NULL, admission_seen_at = coalesce(admission_seen_at, :at),
        event_seq = event_seq + :count
    WHERE agent_id = :agent AND (
        (state = 'restarting' AND attempt = :attempt - 1)
        OR (state = 'starting' AND attempt = :attempt AND deadline_at IS NULL)
    )
    RETURNING agent_id, user_id, project_id, event_seq
    """,
    bindparam("deadline", type_=DateTime(timezone=True)),
    bindparam("attempt", type_=Integer),
    before=_LEFT,
)


async def begin(session: AsyncSession, agent_id: str, attempt: int, at: datetime, deadline_at: datetime) -> Moved:
    """Write that an attempt starts: one that was granted its slot, or the next one of a restart; once."""
    facts = [fact(EventKind.STARTING, AgentState.STARTING, attempt=attempt)]
    named = {"agent": agent_id, "attempt": attempt, "deadline": deadline_at}
    begun = await session.execute(_BEGIN, {**named, **events.log_values(at, facts)})
    was = begun.first()
    if was is None:
        return await unmoved(session, agent_id)
    return _applied(was, AgentState.STARTING, attempt)


_HASTEN = events.logging(
    """
    UPDATE agents SET deadline_at = :deadline, keepable = :keepable, event_seq = event_seq + :count
    WHERE agent_id = :agent AND attempt = :attempt AND state = 'draining'
        AND (deadline_at IS DISTINCT FROM :deadline OR keepable IS DISTINCT FROM :keepable)
    RETURNING agent_id, user_id, project_id, event_seq
    """,
    bindparam("deadline", type_=DateTime(timezone=True)),
    bindparam("keepable", type_=Boolean),
)


async def hasten(
    session: AsyncSession,
    agent_id: str,
    attempt: int,
    at: datetime,
    deadline_at: datetime | None,
    keepable: bool,
    told: Fact,
) -> Moved:
    """Write another end of the grace of a draining agent (None: there is none any more), and log it; once."""
    named = {"agent": agent_id, "attempt": attempt, "deadline": deadline_at, "keepable": keepable}
    hastened = await session.execute(_HASTEN, {**named, **events.log_values(at, [told])})
    if hastened.first() is None:
        return await unmoved(session, agent_id)
    return Moved(applied=True, state=AgentState.DRAINING, attempt=attempt)


def held_seconds(row: Agent, at: datetime) -> float:
    """How long an agent has held a slot by `at`, a stay before it gave one back counted in."""
    earlier = float((row.usage or {}).get("seconds", 0.0))
    since = row.admitted_at or row.started_at
    return round(earlier + ((at - since).total_seconds() if since is not None else 0.0), 3)


async def unmoved(session: AsyncSession, agent_id: str) -> Moved:
    """What the row says, of a write that changed nothing."""
    found = await session.execute(select(Agent.state, Agent.attempt).where(Agent.agent_id == agent_id))
    row = found.one_or_none()
    if row is None:
        raise InvalidRequest("no such agent", code="not_found")
    return Moved(applied=False, state=AgentState(row.state), attempt=row.attempt)


@lru_cache
def _moving(columns: tuple[str, ...]) -> TextClause:
    """State, further `columns` and events in one round trip; no row comes back when the edge was not there to take."""
    table = Agent.__table__.c
    further = "".join(f", {name} = :{name}" for name in columns)
    # Only names of our own columns are put into the text, values never.
    source = (
        f"UPDATE agents SET state = :to, event_seq = event_seq + :count{further}"  # noqa: S608
        " WHERE agent_id = :agent AND attempt = :attempt AND state = ANY(:before)"
        " RETURNING agent_id, user_id, project_id, event_seq"
    )
    typed = [bindparam(name, type_=table[name].type) for name in columns]
    return events.logging(source, bindparam("before", type_=ARRAY(Text)), *typed, before=_LEFT)
