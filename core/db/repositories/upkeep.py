"""What the reaper asks of the database: who lives, who is silent, what is old."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Interval,
    Row,
    Text,
    any_,
    case,
    delete,
    exists,
    func,
    literal,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Channel, Membership, Replica, User
from core.db.repositories import credits, idempotency, tickets
from core.domain.lifecycle import LIVING, AgentState
from core.domain.timings import Timings

_LIVING = [state.value for state in LIVING]
# An API process that has not said so for this long is not up.
REPLICA_GAP = timedelta(seconds=15)


class LivingRow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    attempt: int
    user_id: str
    project_id: str
    workflow_id: str
    state: AgentState
    pool: str
    cluster: str
    template: str
    runtime: str
    changed_at: datetime


# What a row has to tell, without the weight of an Agent: there are thousands of them every half minute.
_TOLD = (
    Agent.agent_id,
    Agent.attempt,
    Agent.user_id,
    Agent.project_id,
    Agent.workflow_id,
    Agent.state,
    Agent.pool,
    Agent.cluster,
    Agent.template,
    Agent.runtime,
    Agent.created_at,
    Agent.admitted_at,
    Agent.started_at,
    Agent.ready_at,
)


def _living(row: Agent | Row[*tuple[Any, ...]]) -> LivingRow:
    moments = (row.created_at, row.admitted_at, row.started_at, row.ready_at)
    return LivingRow(
        agent_id=row.agent_id,
        attempt=row.attempt,
        user_id=row.user_id,
        project_id=row.project_id,
        workflow_id=row.workflow_id,
        state=AgentState(row.state),
        pool=row.pool,
        cluster=row.cluster,
        template=row.template,
        runtime=row.runtime,
        changed_at=max(moment for moment in moments if moment is not None),
    )


async def living(session: AsyncSession) -> list[LivingRow]:
    rows = await session.execute(select(*_TOLD).where(Agent.state.in_(_LIVING)))
    return [_living(row) for row in rows.all()]


async def places_in_use(session: AsyncSession) -> dict[str, str]:
    """Pools that have living agents, and the runtime that made them; the settings may know either no more."""
    query = select(Agent.pool, Agent.runtime).where(Agent.state.in_(_LIVING)).distinct()
    return {pool: runtime for pool, runtime in (await session.execute(query)).all()}


async def living_by_runtime(session: AsyncSession) -> dict[str, int]:
    """How many living agents each runtime made; what is missing is zero. Who waits in line has not been made yet."""
    query = select(Agent.runtime, func.count()).where(Agent.state.in_(_LIVING)).group_by(Agent.runtime)
    return {runtime: int(count) for runtime, count in (await session.execute(query)).all()}


async def living_attempts(session: AsyncSession, agent_ids: Collection[str]) -> dict[str, int]:
    """The attempts of those that are not over, by agent."""
    named = Agent.agent_id == any_(literal([*agent_ids], ARRAY(Text)))
    rows = await session.execute(select(Agent.agent_id, Agent.attempt).where(named, Agent.state.in_(_LIVING)))
    return {agent_id: attempt for agent_id, attempt in rows.all()}


async def silent_channels(session: AsyncSession, general: Timings, own: Mapping[str, Timings]) -> list[LivingRow]:
    """Running agents that were heard once and not for `channel_lost_seconds`, counting only time in which we could
    hear. `own`: by template, where it has others than the general ones.

    That time begins when the API processes that are up now came up (or the database came back to them), plus the
    window in which agents find their way back. All of it by the database's clock, by which both are written: a worker
    whose own is a little ahead would find no process up, and nobody silent ever. The longest silent come first.
    """
    lost_after = _by_template(general.channel_lost_seconds, {name: t.channel_lost_seconds for name, t in own.items()})
    reconnect = _by_template(general.reconnect_seconds, {name: t.reconnect_seconds for name, t in own.items()})
    up = Replica.seen_at > func.now() - REPLICA_GAP
    up_since = await session.scalar(select(func.min(Replica.up_since)).where(up))
    if up_since is None:
        return []
    heard = func.greatest(Channel.last_seen_at, literal(up_since, DateTime(timezone=True)) + reconnect)
    query = (
        select(Agent)
        .join(Channel, (Channel.agent_id == Agent.agent_id) & (Channel.attempt == Agent.attempt))
        .where(
            Agent.state == AgentState.RUNNING.value,
            Channel.last_seen_at.is_not(None),
            heard < func.now() - lost_after,
        )
        .order_by(Channel.last_seen_at, Agent.agent_id)
    )
    return [_living(row) for row in (await session.scalars(query)).all()]


async def heard_channels(session: AsyncSession, silent_for: timedelta) -> dict[str, tuple[int, int]]:
    """Of each cluster's running agents: how many were not heard for so long, and how many were heard once at all."""
    query = (
        select(Agent.cluster, func.count().filter(Channel.last_seen_at < func.now() - silent_for), func.count())
        .select_from(Agent)
        .join(Channel, (Channel.agent_id == Agent.agent_id) & (Channel.attempt == Agent.attempt))
        .where(Agent.state == AgentState.RUNNING.value, Channel.last_seen_at.is_not(None))
        .group_by(Agent.cluster)
    )
    return {cluster: (int(silent), int(heard)) for cluster, silent, heard in (await session.execute(query)).all()}


def _by_template(general: float, own: Mapping[str, float]) -> ColumnElement[timedelta]:
    otherwise = literal(timedelta(seconds=general), Interval)
    if not own:
        return otherwise
    given = {name: literal(timedelta(seconds=value), Interval) for name, value in own.items()}
    return case(given, value=Agent.template, else_=otherwise)


async def of_expired_subscriptions(session: AsyncSession, now: datetime) -> list[LivingRow]:
    query = (
        select(Agent)
        .join(User, User.user_id == Agent.user_id)
        .where(
            User.subscription_active_until <= now,
            Agent.state.in_(_LIVING),
            Agent.state != AgentState.DRAINING.value,
        )
    )
    return [_living(row) for row in (await session.scalars(query)).all()]


async def of_former_members(session: AsyncSession) -> list[LivingRow]:
    """Agents in projects to which their users do not belong any more."""
    member = exists().where(Membership.project_id == Agent.project_id, Membership.user_id == Agent.user_id)
    query = select(Agent).where(Agent.state.in_(_LIVING), Agent.state != AgentState.DRAINING.value, ~member)
    return [_living(row) for row in (await session.scalars(query)).all()]


async def forget_old(session: AsyncSession, now: datetime, most: int = 1000) -> int:
    """Drop tickets and credits past their minutes, API processes that are long gone, and at most `most` answers that
    were kept for 24 h; return how many of these.
    """
    await tickets.purge(session, now)
    await credits.purge(session, now)
    await session.execute(delete(Replica).where(Replica.seen_at < func.now() - timedelta(hours=1)))
    return await idempotency.purge(session, now, most)
