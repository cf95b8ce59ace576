"""Agents: reading them as the API shows them, and what their events are made of."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from sqlalchemy import ARRAY, Text, and_, any_, case, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from core.db.models import Agent, EventRow
from core.db.repositories import places
from core.db.repositories.events import Fact
from core.domain.events import EventKind
from core.domain.lifecycle import FINAL, HOLDING, LIVING, TO_COME, WAITING, AgentState


class AgentView(BaseModel):
    """An agent as readers see it. `position` and the wait are filled in for waiting ones by `queue.with_wait`, and
    `state_since` by `with_since`.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")
    agent_id: str
    user_id: str
    project_id: str
    template: str
    pool: str
    runtime: str
    state: AgentState
    reason: str | None
    restart_count: int
    position: int | None = None
    estimated_wait_minutes: int | None = None
    estimated_wait: tuple[int, int] | None = Field(None, exclude=True)
    created_at: datetime
    started_at: datetime | None
    ready_at: datetime | None
    last_activity_at: datetime
    deadline_at: datetime | None
    ended_at: datetime | None
    state_since: datetime | None = Field(None, exclude=True)
    attempt: int = Field(exclude=True)
    keepable: bool = Field(exclude=True)
    workflow_id: str = Field(exclude=True)
    cluster: str = Field(exclude=True)

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def over(self) -> bool:
        return self.state in FINAL


def view(row: Agent) -> AgentView:
    return AgentView(
        agent_id=row.agent_id,
        user_id=row.user_id,
        project_id=row.project_id,
        template=row.template,
        pool=row.pool,
        runtime=row.runtime,
        state=AgentState(row.state),
        reason=row.reason,
        restart_count=row.restart_count,
        created_at=row.created_at,
        started_at=row.started_at,
        ready_at=row.ready_at,
        last_activity_at=row.last_activity_at,
        deadline_at=row.deadline_at,
        ended_at=row.ended_at,
        attempt=row.attempt,
        keepable=row.keepable,
        workflow_id=row.workflow_id,
        cluster=row.cluster,
    )


def _values(states: frozenset[AgentState]) -> list[str]:
    return [state.value for state in states]


async def get(session: AsyncSession, agent_id: str) -> AgentView | None:
    row = await session.get(Agent, agent_id)
    return view(row) if row else None


async def is_over(session: AsyncSession, agent_id: str) -> bool:
    """Whether the agent is known, and its end is written."""
    found = await get(session, agent_id)
    return found is not None and found.over


async def current(session: AsyncSession, user_id: str, project_id: str) -> AgentView | None:
    """The living agent of a user's project; when one is draining and its successor waits, the successor."""
    ending_last = case((Agent.state == AgentState.DRAINING.value, 1), else_=0)
    query = (
        select(Agent)
        .where(Agent.user_id == user_id, Agent.project_id == project_id, Agent.state.in_(_values(LIVING)))
        .order_by(ending_last, Agent.created_at.desc())
        .limit(1)
    )
    row = await session.scalar(query)
    return view(row) if row else None


async def behind(session: AsyncSession, user_id: str, project_id: str, agent_id: str) -> AgentView | None:
    """The agent that comes after `agent_id` for the same project: it waits, or starts as that end made room."""
    query = select(Agent).where(
        Agent.user_id == user_id,
        Agent.project_id == project_id,
        Agent.agent_id != agent_id,
        Agent.state.in_(_values(TO_COME)),
    )
    row = await session.scalar(query)
    return view(row) if row else None


async def page(
    session: AsyncSession,
    user_id: str | None,
    *,
    state: AgentState | None = None,
    project_id: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[AgentView], str | None]:
    """One page, newest first, of a user's agents (None: everyone's) and the cursor of the next page."""
    query = select(Agent)
    if user_id is not None:
        query = query.where(Agent.user_id == user_id)
    if state is not None:
        query = query.where(Agent.state == state.value)
    if project_id is not None:
        query = query.where(Agent.project_id == project_id)
    rows, onward = await places.page(session, query, Agent.created_at, Agent.agent_id, limit, cursor)
    return [view(row) for row in rows], onward


async def with_since(session: AsyncSession, found: Sequence[AgentView]) -> list[AgentView]:
    """The same with `state_since` filled in: from the row where it has that moment, else from the log, in one query."""
    moments = {each.agent_id: _moment(each) for each in found}
    unsaid = [agent_id for agent_id, moment in moments.items() if moment is None]
    if unsaid:
        other = aliased(EventRow)
        before = select(func.max(other.seq)).where(other.agent_id == Agent.agent_id, other.state != Agent.state)
        came = select(func.min(EventRow.at)).where(
            EventRow.agent_id == Agent.agent_id,
            EventRow.state == Agent.state,
            EventRow.seq > func.coalesce(before.correlate(Agent).scalar_subquery(), 0),
        )
        query = select(Agent.agent_id, came.correlate(Agent).scalar_subquery()).where(
            Agent.agent_id == any_(literal(unsaid, ARRAY(Text)))
        )
        moments |= {agent_id: moment for agent_id, moment in (await session.execute(query)).all()}
    return [each.model_copy(update={"state_since": moments[each.agent_id]}) for each in found]


def _moment(agent: AgentView) -> datetime | None:
    match agent.state:
        case AgentState.STARTING:
            return agent.started_at
        case AgentState.RUNNING:
            return agent.ready_at
        case (
            AgentState.REQUESTED
            | AgentState.QUEUED
            | AgentState.RESTARTING
            | AgentState.DRAINING
            | AgentState.TERMINATED
            | AgentState.CANCELLED
            | AgentState.FAILED
        ):
            return agent.ended_at


async def touch(session: AsyncSession, agent_id: str, at: datetime) -> None:
    """Note activity of the user; the idle timer pulls it when it fires.

    Not of an agent that waits: nothing can be idle yet, and its row says there since when it is in line.
    """
    there = and_(Agent.agent_id == agent_id, Agent.state.in_(_values(HOLDING)))
    await session.execute(update(Agent).where(there, Agent.last_activity_at < at).values(last_activity_at=at))


async def lock(session: AsyncSession, agent_id: str) -> Agent | None:
    return await session.scalar(
        select(Agent).where(Agent.agent_id == agent_id).with_for_update().execution_options(populate_existing=True)
    )


def fact(kind: EventKind, state: AgentState, reason: str | None = None, **detail: Any) -> Fact:
    return Fact(kind=kind, state=state, reason=reason, detail=detail)
