"""The queue: rows that wait, in the order fixed when they came, and the slots given to them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Case, Integer, and_, case, func, or_, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from core.db.models import Agent, LifeStatistic, User
from core.db.repositories import clusters, events
from core.db.repositories.agents import AgentView, fact, view
from core.domain.admission import free_slots
from core.domain.events import EventKind
from core.domain.lifecycle import HOLDING, WAITING, AgentState
from core.domain.queueing import Wait, estimate_wait
from core.domain.templates import Pool
from core.domain.tiers import Tier, TierLimits

_HOLDING = [state.value for state in HOLDING]
_WAITING = [state.value for state in WAITING]
_ORDER = (Agent.order_front, Agent.order_tier, Agent.order_at, Agent.agent_id)
GRANTS_A_PASS = 50


class Winner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    attempt: int
    workflow_id: str


class Pass(BaseModel):
    """One pass over a pool's queue: who has a slot and was not heard of yet, and who still waits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    granted: int
    unseen: tuple[Winner, ...]
    waiting: int


async def grant(
    session: AsyncSession, name: str, pool: Pool, limits: TierLimits, at: datetime, max_waiting: int
) -> Pass:
    """Give free slots of a pool in order, and return every winner whose workflow has not taken notice yet.

    A waiting agent is passed over, keeping its place, while its user's draining agents fill the quota, while an
    agent of the same project is still ending, or while the subscription is not active.
    """
    await clusters.lock_cluster(session, pool.cluster)
    room = await clusters.room(session, name, pool, at, max_waiting)
    granted = 0
    free = min(free_slots(room), GRANTS_A_PASS)
    if free and room.waiting:
        chosen = await _next_in_order(session, name, limits, at, free)
        # Users' event counters are locked in one order everywhere, or two clusters could wait for each other.
        for row in sorted(chosen, key=lambda row: row.user_id):
            row.state = AgentState.STARTING.value
            row.reason = None
            row.admitted_at = at
            row.admission_seen_at = None
            waited = round((at - row.created_at).total_seconds(), 3)
            await events.append(
                session,
                row,
                at,
                fact(EventKind.ADMITTED, AgentState.STARTING, waitedSeconds=waited, attempt=row.attempt),
            )
            granted += 1
    await session.flush()
    unseen = await session.scalars(
        select(Agent).where(
            Agent.pool == name, Agent.state == AgentState.STARTING.value, Agent.admission_seen_at.is_(None)
        )
    )
    winners = tuple(Winner(agent_id=r.agent_id, attempt=r.attempt, workflow_id=r.workflow_id) for r in unseen.all())
    if granted:
        await announce(session, name)
    return Pass(granted=granted, unseen=winners, waiting=room.waiting - granted)


async def announce(session: AsyncSession, pool: str) -> None:
    """Tell listeners, on commit, that positions in a pool's queue may have changed."""
    await session.execute(text("SELECT pg_notify('berth_queue', :pool)"), {"pool": pool})


def _limit_of(limits: TierLimits) -> Case[int]:
    return case({tier.value: limits.of(tier) for tier in Tier}, value=User.tier, else_=0)


async def _next_in_order(
    session: AsyncSession, name: str, limits: TierLimits, at: datetime, free: int
) -> Sequence[Agent]:
    other = aliased(Agent)
    held = (
        select(func.count())
        .where(other.user_id == Agent.user_id, other.state.in_(_HOLDING))
        .correlate(Agent)
        .scalar_subquery()
    )
    ending = (
        select(other.agent_id)
        .where(
            other.user_id == Agent.user_id,
            other.project_id == Agent.project_id,
            other.state == AgentState.DRAINING.value,
        )
        .correlate(Agent)
        .exists()
    )
    limit = _limit_of(limits)
    query = (
        select(Agent, (func.cast(limit, Integer) - held).label("spare"))
        .join(User, User.user_id == Agent.user_id)
        .where(
            Agent.pool == name,
            Agent.state == AgentState.QUEUED.value,
            held < limit,
            ~ending,
            or_(User.subscription_active_until.is_(None), User.subscription_active_until > at),
        )
        .order_by(*_ORDER)
        .limit(free * 2)
        .with_for_update(of=Agent, skip_locked=True)
    )
    chosen: list[Agent] = []
    of_user: Counter[str] = Counter()
    for row, spare in (await session.execute(query)).all():
        if len(chosen) < free and of_user[row.user_id] < spare:
            of_user[row.user_id] += 1
            chosen.append(row)
    return chosen


async def positions(session: AsyncSession, pool: str) -> dict[str, int]:
    """Place in line (1 is next) of every waiting agent of a pool, in one query."""
    place = func.row_number().over(order_by=_ORDER)
    query = select(Agent.agent_id, place).where(Agent.pool == pool, Agent.state.in_(_WAITING))
    return {row[0]: int(row[1]) for row in (await session.execute(query)).all()}


async def _position(session: AsyncSession, agent_id: str) -> int | None:
    me = aliased(Agent)
    ahead = tuple_(*_ORDER) <= tuple_(me.order_front, me.order_tier, me.order_at, me.agent_id)
    query = (
        select(func.count())
        .select_from(me)
        .join(Agent, and_(Agent.pool == me.pool, Agent.state.in_(_WAITING), ahead))
        .where(me.agent_id == agent_id, me.state.in_(_WAITING))
    )
    return await session.scalar(query) or None


async def mean_life_minutes(session: AsyncSession, pool: str, fallback: float) -> float:
    measured = await session.get(LifeStatistic, pool)
    return measured.mean_minutes if measured and measured.weight >= 5 else fallback


async def wait_of(session: AsyncSession, pool: str, position: int, lifespan_minutes: float) -> Wait:
    """How long place `position` of a pool's queue waits; the mean life is measured, `lifespan_minutes` until then."""
    active = await session.scalar(select(func.count()).where(Agent.pool == pool, Agent.state.in_(_HOLDING))) or 0
    return estimate_wait(position, active, await mean_life_minutes(session, pool, lifespan_minutes))


async def with_wait(session: AsyncSession, agent: AgentView, lifespan_minutes: float) -> AgentView:
    """`agent` with position and wait filled in when it waits."""
    if not agent.waiting:
        return agent
    position = await _position(session, agent.agent_id)
    if position is None:
        return agent
    return _waited(agent, position, await wait_of(session, agent.pool, position, lifespan_minutes))


async def note_estimate(session: AsyncSession, agent_id: str, lifespan_minutes: float) -> None:
    """Keep what a waiting agent is told when it comes, to be held against the wait that it then has."""
    row = await session.get_one(Agent, agent_id)
    row.wait_estimate_minutes = (await with_wait(session, view(row), lifespan_minutes)).estimated_wait_minutes


async def all_with_wait(session: AsyncSession, agents: Sequence[AgentView], lifespan_minutes: float) -> list[AgentView]:
    """Several at once: one query a pool, however many wait."""
    places: dict[str, Mapping[str, int]] = {}
    out: list[AgentView] = []
    for agent in agents:
        if agent.waiting:
            if agent.pool not in places:
                places[agent.pool] = await positions(session, agent.pool)
            place = places[agent.pool].get(agent.agent_id)
            if place is not None:
                agent = _waited(agent, place, await wait_of(session, agent.pool, place, lifespan_minutes))
        out.append(agent)
    return out


def _waited(agent: AgentView, position: int, wait: Wait) -> AgentView:
    return agent.model_copy(
        update={"position": position, "estimated_wait_minutes": wait.minutes, "estimated_wait": (wait.low, wait.high)}
    )


async def waiting_of_user(session: AsyncSession, user_id: str) -> list[AgentView]:
    query = select(Agent).where(Agent.user_id == user_id, Agent.state.in_(_WAITING)).order_by(*_ORDER)
    return [view(row) for row in (await session.scalars(query)).all()]


async def pools_with_work(session: AsyncSession) -> list[str]:
    """Pools in which somebody waits or a grant was not taken notice of."""
    query = (
        select(Agent.pool)
        .where(
            or_(
                Agent.state.in_(_WAITING),
                and_(Agent.state == AgentState.STARTING.value, Agent.admission_seen_at.is_(None)),
            )
        )
        .distinct()
    )
    return list((await session.scalars(query)).all())


async def somebody_waits(session: AsyncSession, cluster: str) -> list[str]:
    """Pools of a cluster with a queue; a slot that came free may be anyone's of them."""
    query = select(Agent.pool).where(Agent.cluster == cluster, Agent.state.in_(_WAITING)).distinct()
    return list((await session.scalars(query)).all())


_NOTE_LIFE = text(
    """
    INSERT INTO life_statistics AS known (pool, mean_minutes, weight) VALUES (:pool, :minutes, 1)
    ON CONFLICT (pool) DO UPDATE SET
        weight = known.weight * 0.98 + 1,
        mean_minutes = known.mean_minutes + (:minutes - known.mean_minutes) / (known.weight * 0.98 + 1)
    """
)


async def note_life(session: AsyncSession, pool: str, minutes: float) -> None:
    """Fold one ended life into the pool's mean; old lives fade with a weight of 0.98 each."""
    await session.execute(_NOTE_LIFE, {"pool": pool, "minutes": minutes})
