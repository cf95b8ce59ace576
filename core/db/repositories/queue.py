"""The queue: rows that wait, in the order fixed when they came, and the slots given to them."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Case, Select, and_, bindparam, case, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from core.db.models import Agent, User
from core.db.notify import Wake, notify
from core.db.repositories import clusters, events, flows, locks, tallies
from core.db.repositories.agents import AgentView, fact, view
from core.db.repositories.flows import Turnover
from core.db.repositories.tallies import Waited
from core.domain.admission import Rules
from core.domain.events import EventKind
from core.domain.lifecycle import HOLDING, WAITING, AgentState
from core.domain.queueing import FRONT, OrderKey
from core.domain.room import Room, fitting, line_slots
from core.domain.templates import Pool
from core.domain.tiers import Tier, TierLimits
from core.domain.waits import Wait

_HOLDING = [state.value for state in HOLDING]
_WAITING = [state.value for state in WAITING]
_ORDER = (Agent.order_front, Agent.order_tier, Agent.order_fair, Agent.order_at, Agent.agent_id)
GRANTS_A_PASS = 50
# Nobody who gives slots has to know of more.
WAITING_COUNTED = 4 * GRANTS_A_PASS


class Winner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    attempt: int
    workflow_id: str


class Given(BaseModel):
    """A slot that was given just now, after how many seconds in line."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    attempt: int
    waited: float


class Pass(BaseModel):
    """One pass over a pool's queue: who has a slot and was not heard of yet, and how many still wait.

    `waiting` is counted as far as `WAITING_COUNTED` goes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    given: tuple[Given, ...]
    unseen: tuple[Winner, ...]
    waiting: int

    @property
    def granted(self) -> int:
        return len(self.given)


async def grant(
    session: AsyncSession, name: str, pool: Pool, limits: TierLimits, at: datetime, max_waiting: int
) -> Pass:
    """Give free slots of a pool in order, and return every winner whose workflow has not taken notice yet.

    Where templates differ in what they ask for, the first that finds no place holds up those behind it, small or not.
    A waiting agent is passed over, keeping its place, while its user's draining agents fill the quota, while an
    agent of the same project is still ending, or while the subscription is not active.
    """
    await locks.cluster(session, pool.cluster)
    room = await clusters.room(session, name, pool, at, max_waiting, counted=WAITING_COUNTED)
    given: list[Given] = []
    known: list[Waited] = []
    free = line_slots(room, GRANTS_A_PASS)
    if free and room.waiting:
        chosen = await _next_in_order(session, name, limits, at, free)
        for row in chosen[: fitting(room, [row.template for row in chosen])]:
            row.state = AgentState.STARTING.value
            row.reason = None
            row.admitted_at = at
            row.admission_seen_at = None
            # A clock that was put back since makes nobody wait less than no time.
            again = row.order_front == FRONT
            waited = round(max((at - (row.last_activity_at if again else row.created_at)).total_seconds(), 0), 3)
            if not again:  # a second wait is no measure of the line: it began at its front
                known.append(Waited(seconds=waited, told=_told(row)))
            await events.append(
                session,
                row,
                at,
                fact(EventKind.ADMITTED, AgentState.STARTING, waitedSeconds=waited, attempt=row.attempt),
            )
            given.append(Given(agent_id=row.agent_id, attempt=row.attempt, waited=waited))
        await tallies.count(session, name, known)
    await session.flush()
    unseen = await session.execute(
        select(Agent.agent_id, Agent.attempt, Agent.workflow_id).where(
            Agent.pool == name, Agent.state == AgentState.STARTING.value, Agent.admission_seen_at.is_(None)
        )
    )
    winners = tuple(Winner(agent_id=r.agent_id, attempt=r.attempt, workflow_id=r.workflow_id) for r in unseen.all())
    if given:
        await announce(session, name)
    return Pass(given=tuple(given), unseen=winners, waiting=room.waiting - len(given))


def _told(row: Agent) -> Wait | None:
    minutes, low, high = row.wait_estimate_minutes, row.wait_low_minutes, row.wait_high_minutes
    if minutes is None or low is None or high is None:
        return None
    return Wait(minutes=minutes, low=low, high=high)


async def announce(session: AsyncSession, pool: str) -> None:
    """Tell listeners, on commit, that positions in a pool's queue may have changed."""
    await notify(session, Wake.QUEUE, pool)


def _limit_of(limits: TierLimits) -> Case[int]:
    return case({tier.value: limits.of(tier) for tier in Tier}, value=User.tier, else_=0)


@lru_cache(maxsize=4)
def _candidates(limits: TierLimits) -> Select[Agent]:
    """Who may have a slot, in order; made once, as making it takes longer than asking it."""
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
    return (
        select(Agent)
        .join(User, User.user_id == Agent.user_id)
        .where(
            Agent.pool == bindparam("pool"),
            Agent.state == AgentState.QUEUED.value,
            held < _limit_of(limits),
            ~ending,
            or_(User.subscription_active_until.is_(None), User.subscription_active_until > bindparam("at")),
        )
        .order_by(*_ORDER)
        .limit(bindparam("most"))
        .with_for_update(of=Agent, skip_locked=True)
    )


async def _next_in_order(
    session: AsyncSession, name: str, limits: TierLimits, at: datetime, free: int
) -> Sequence[Agent]:
    rows = (await session.scalars(_candidates(limits), {"pool": name, "at": at, "most": free * 2})).all()
    spare = await _spare(session, limits, {row.user_id for row in rows})
    chosen: list[Agent] = []
    for row in rows:
        if len(chosen) < free and spare[row.user_id] > 0:
            spare[row.user_id] -= 1
            chosen.append(row)
    return chosen


@lru_cache(maxsize=4)
def _limits_locked(limits: TierLimits) -> Select[str, int]:
    """Users with their limits, locked in one order everywhere, or two clusters could wait for each other."""
    return (
        select(User.user_id, _limit_of(limits))
        .where(User.user_id.in_(bindparam("users", expanding=True)))
        .order_by(User.user_id)
        .with_for_update(key_share=True)
    )


_HELD = (
    select(Agent.user_id, func.count())
    .where(Agent.user_id.in_(bindparam("users", expanding=True)), Agent.state.in_(_HOLDING))
    .group_by(Agent.user_id)
)


async def _spare(session: AsyncSession, limits: TierLimits, users: Collection[str]) -> Counter[str]:
    """How many more agents each may hold. Keeps the users locked, as another cluster may be giving them slots too."""
    asked = {"users": list(users)}
    spare = Counter({user: limit for user, limit in (await session.execute(_limits_locked(limits), asked)).all()})
    spare.subtract({user: count for user, count in (await session.execute(_HELD, asked)).all()})
    return spare


class InLine(BaseModel):
    """A waiting agent and its place (1 is next), with what the place was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    user_id: str
    project_id: str
    position: int
    key: OrderKey
    tier: Tier
    others: int
    since: datetime

    def wait(self, turnover: Turnover) -> Wait:
        return turnover.wait(self.position, self.key, self.tier, self.others, self.since)


_MADE_OF = (Agent.tier, Agent.order_others, Agent.order_since)


def _in_line(row: Any, position: int) -> InLine:
    key = OrderKey(front=row.order_front, tier_rank=row.order_tier, fair=row.order_fair, at=row.order_at)
    return InLine(
        agent_id=row.agent_id,
        user_id=row.user_id,
        project_id=row.project_id,
        position=position,
        key=key,
        tier=Tier(row.tier),
        others=row.order_others,
        since=row.order_since,
    )


async def line(
    session: AsyncSession, pool: str, *, users: Collection[str] | None = None, agents: Collection[str] | None = None
) -> list[InLine]:
    """The waiting agents of a pool in order, or those of some users or some of them, in one query."""
    place = func.row_number().over(order_by=_ORDER).label("place")
    whole = (
        select(*_ORDER, *_MADE_OF, Agent.user_id, Agent.project_id, place)
        .where(Agent.pool == pool, Agent.state.in_(_WAITING))
        .subquery()
    )
    query = select(whole).order_by(whole.c.place)
    if users is not None:
        query = query.where(whole.c.user_id.in_(users))
    if agents is not None:
        query = query.where(whole.c.agent_id.in_(agents))
    return [_in_line(row, int(row.place)) for row in (await session.execute(query)).all()]


async def positions(session: AsyncSession, pool: str) -> dict[str, int]:
    """Place in line (1 is next) of every waiting agent of a pool, in one query."""
    return {each.agent_id: each.position for each in await line(session, pool)}


async def _place_of(session: AsyncSession, agent_id: str) -> InLine | None:
    row = await session.scalar(select(Agent).where(Agent.agent_id == agent_id, Agent.state.in_(_WAITING)))
    if row is None:
        return None
    ahead = tuple_(*_ORDER) < tuple_(row.order_front, row.order_tier, row.order_fair, row.order_at, row.agent_id)
    query = select(func.count()).where(Agent.pool == row.pool, Agent.state.in_(_WAITING), ahead)
    return _in_line(row, (await session.scalar(query) or 0) + 1)


async def with_wait(session: AsyncSession, agent: AgentView, rules: Rules, room: Room | None = None) -> AgentView:
    """`agent` with position and wait filled in when it waits. `room`: what its pool was just seen to have."""
    if not agent.waiting:
        return agent
    place = await _place_of(session, agent.agent_id)
    if place is None:
        return agent
    return _waited(agent, place.position, place.wait(await flows.turnover(session, agent.pool, rules, room)))


async def note_estimate(session: AsyncSession, agent_id: str, rules: Rules, room: Room) -> None:
    """Keep what a waiting agent is told when it comes, to be held against the wait that it then has."""
    row = await session.get_one(Agent, agent_id)
    told = await with_wait(session, view(row), rules, room)
    row.wait_estimate_minutes = told.estimated_wait_minutes
    row.wait_low_minutes, row.wait_high_minutes = told.estimated_wait or (None, None)


async def all_with_wait(session: AsyncSession, agents: Sequence[AgentView], rules: Rules) -> list[AgentView]:
    """Several at once: two queries a pool, however many wait."""
    waits: dict[str, tuple[int, Wait]] = {}
    for pool in {agent.pool for agent in agents if agent.waiting}:
        turnover = await flows.turnover(session, pool, rules)
        for each in await line(session, pool, agents=[agent.agent_id for agent in agents if agent.waiting]):
            waits[each.agent_id] = each.position, each.wait(turnover)
    return [_waited(agent, *waits[agent.agent_id]) if agent.agent_id in waits else agent for agent in agents]


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


async def somebody_waits(session: AsyncSession, cluster: str, user_id: str | None = None) -> list[str]:
    """Pools of a cluster with a queue, as a slot that came free may be anyone's of them: first whose first goes first.

    With `user_id` also those of other clusters in which that user waits, whose quota came free.
    """
    concerned = Agent.cluster == cluster if user_id is None else or_(Agent.cluster == cluster, Agent.user_id == user_id)
    firsts = (
        select(Agent.pool, *_ORDER)
        .where(concerned, Agent.state.in_(_WAITING))
        .ext(distinct_on(Agent.pool))
        .order_by(Agent.pool, *_ORDER)
    )
    return [pool for pool, *_ in sorted((await session.execute(firsts)).all(), key=lambda first: first[1:])]
