"""Registration: a request becomes a row, or a reason why not, in one transaction under the user's lock."""

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict
from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, User
from core.db.repositories import clusters, credits, events, flows, idempotency, locks, ordering, queue
from core.db.repositories.agents import fact
from core.db.repositories.idempotency import KeyedBy
from core.db.repositories.ordering import Turn
from core.domain import admission
from core.domain.admission import Create, Decision, Numbers, Queue, QueueReason, Reject, RejectReason, Rules, Standing
from core.domain.events import EventKind
from core.domain.lifecycle import CURRENT, LIVING, TO_COME, WAITING, AgentState
from core.domain.orders import SCHEDULED_KEY, StartAnswer, StartOutcome, StartRequest
from core.domain.room import Room
from core.domain.templates import Pool
from core.domain.tiers import Tier
from core.errors import NotFound

_LIVING = [state.value for state in LIVING]
_CURRENT = [state.value for state in CURRENT]
_TOLD_OF_REFUSAL = timedelta(minutes=1)


class Leftover(BaseModel):
    """A row of the same project that no workflow knows any more: its run was terminated by hand, or forgot it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    attempt: int
    state: AgentState
    pool: str
    template: str
    runtime: str


class Registered(BaseModel):
    """`leftovers` not empty: nothing was decided, clear those away and register again."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    answer: StartAnswer | None
    state: AgentState | None = None
    attempt: int = 1
    # The row says that the attempt started; a row that was granted a slot since may not say so yet.
    begun: bool = False
    # The row was written by this very call.
    written: bool = False
    # Who answers in the place of the agent that was asked for.
    forgotten: Leftover | None = None
    leftovers: tuple[Leftover, ...] = ()


async def register(
    session: AsyncSession,
    request: StartRequest,
    workflow_id: str,
    predecessor: str | None,
    pool: Pool,
    rules: Rules,
    deadline: timedelta,
    now: datetime,
) -> Registered:
    """Decide `request` and write its row and events, or its rejection; asked again, it gives the same answer.

    With room for it the agent starts in the same transaction and has to be usable within `deadline`.

    `predecessor` is the life of the same workflow that is just ending, which may stand beside the new row. Who waits
    behind it already is no leftover: the workflow was told of a start and forgot it, so that one is the answer.
    """
    await locks.user(session, request.user_id)
    user = await session.get(User, request.user_id)
    if user is None:
        raise NotFound("no such user", code="unknown_user")
    rows = await _living_or_this(session, request.user_id, request.agent_id)
    for known in rows:
        if known.agent_id == request.agent_id:
            return _of_row(known)
    mine = [row for row in rows if row.project_id == request.project_id]
    forgotten = None
    if predecessor is not None:
        forgotten = next((row for row in mine if row.workflow_id == workflow_id and _to_come(row, predecessor)), None)
    by = _keyed(request)
    decided = await idempotency.outcome_of(session, by.user_id, by.scope, by.key) if by else None
    if decided is not None and (forgotten is None or decided.agent_id != forgotten.agent_id):
        # Another run decided under this key, and its life may be over already: no second one for the same request.
        return Registered(answer=decided)
    if forgotten is not None:
        return _of_row(forgotten).model_copy(update={"forgotten": _leftover(forgotten)})
    # Those that wait go first, or the slots of the others would be given to them.
    left = sorted((row for row in mine if row.agent_id != predecessor), key=lambda row: row.state not in WAITING)
    leftovers = tuple(_leftover(row) for row in left)
    if leftovers:
        return Registered(answer=None, leftovers=leftovers)
    if rules.max_project_agents is not None:
        await locks.project(session, request.project_id)
    project_living = await living_of_project(session, request.project_id, rules)
    await locks.cluster(session, pool.cluster)
    room = await clusters.room(session, request.pool, pool, now, rules.max_waiting, request.template)
    standing = standing_of(user, rows, bool(mine), rules, now, project_living)
    examined = admission.examine(standing, room)
    decision = admission.conclude(examined)
    found = admission.deciding(examined)
    numbers = found.numbers if found is not None else {}
    turn = await ordering.turn_of(session, request.user_id, request.project_id, rows, rules.ageing, now)
    registered = await _carry_out(
        session, decision, request, workflow_id, pool, turn, standing, room, deadline, now, numbers
    )
    if registered.state is not None:
        await flows.came(session, request.pool, standing.tier, now)
        if turn.owed:
            await credits.take(session, request.user_id, request.project_id)
    if registered.state is AgentState.QUEUED:
        await queue.note_estimate(session, request.agent_id, rules, room)
    answer = registered.answer
    # A full queue is no decision about this request: the same key is decided anew.
    if by and answer is not None and answer.reason != RejectReason.QUEUE_FULL:
        # In this very transaction: an API that dies now still finds the outcome under the key.
        await idempotency.record_outcome(session, by, answer, now)
    return registered


def _keyed(request: StartRequest) -> KeyedBy | None:
    if request.key is None:
        return None
    scope = idempotency.start_scope(request.project_id)
    return KeyedBy(user_id=request.user_id, scope=scope, key=request.key, body_hash=request.body_hash)


async def _living_or_this(session: AsyncSession, user_id: str, agent_id: str) -> list[Agent]:
    living = and_(Agent.user_id == user_id, Agent.state.in_(_LIVING))
    return list((await session.scalars(select(Agent).where(or_(living, Agent.agent_id == agent_id)))).all())


def _to_come(row: Agent, predecessor: str) -> bool:
    """Whether it is the one after `predecessor`: in line, or starting since there was room."""
    return row.agent_id != predecessor and row.state in TO_COME


def _leftover(row: Agent) -> Leftover:
    return Leftover(
        agent_id=row.agent_id,
        attempt=row.attempt,
        state=AgentState(row.state),
        pool=row.pool,
        template=row.template,
        runtime=row.runtime,
    )


async def living_of_project(session: AsyncSession, project_id: str, rules: Rules) -> int:
    """Agents of all members that are not draining; not counted while there is no limit to them."""
    if rules.max_project_agents is None:
        return 0
    query = select(func.count()).where(Agent.project_id == project_id, Agent.state.in_(_CURRENT))
    return await session.scalar(query) or 0


async def project_is_full(session: AsyncSession, project_id: str, rules: Rules) -> bool:
    """Whether one more agent than those that live and do not drain is one too many; true until the caller commits."""
    if rules.max_project_agents is None:
        return False
    await locks.project(session, project_id)
    return await living_of_project(session, project_id, rules) >= rules.max_project_agents


def standing_of(
    user: User, rows: list[Agent], same_project: bool, rules: Rules, now: datetime, project_living: int
) -> Standing:
    tier = Tier(user.tier)
    until = user.subscription_active_until
    return Standing(
        tier=tier,
        limit=rules.limits.of(tier),
        living=len(rows),
        ending=sum(row.state not in CURRENT for row in rows),
        subscription_active=until is None or until > now,
        same_project_ending=same_project,
        project_limit=rules.max_project_agents,
        project_living=project_living,
    )


def _of_row(row: Agent) -> Registered:
    state = AgentState(row.state)
    outcome = StartOutcome.QUEUED if state in WAITING else StartOutcome.CREATED
    answer = StartAnswer(outcome=outcome, agent_id=row.agent_id, reason=row.reason if state in WAITING else None)
    begun = state not in WAITING and row.started_at is not None
    return Registered(answer=answer, state=state, attempt=row.attempt, begun=begun)


async def _carry_out(
    session: AsyncSession,
    decision: Decision,
    request: StartRequest,
    workflow_id: str,
    pool: Pool,
    turn: Turn,
    standing: Standing,
    room: Room,
    deadline: timedelta,
    now: datetime,
    numbers: Numbers,
) -> Registered:
    match decision:
        case Reject(reason=reason, action=action):
            told = {"limit": standing.limit, "living": standing.living, "waiting": room.waiting, **numbers}
            # Who asks in a loop is answered each time; once a minute is enough for events and notices of it. Of a start
            # that was booked they are all that its user hears.
            whose = (request.user_id, request.project_id)
            booked = request.key is not None and request.key.startswith(SCHEDULED_KEY)
            if booked or not await events.refused_since(session, *whose, reason.value, now - _TOLD_OF_REFUSAL):
                await events.record_rejection(session, *whose, now, reason.value, told)
            answer = StartAnswer(outcome=StartOutcome.REJECTED, reason=reason.value, action=action)
            return Registered(answer=answer)
        case Queue(reason=waits):
            row = _row(request, workflow_id, pool, turn, standing.tier, now, AgentState.QUEUED, waits)
            session.add(row)
            await events.append(session, row, now, *_arrival(waits, numbers))
            await queue.announce(session, request.pool)
            answer = StartAnswer(outcome=StartOutcome.QUEUED, agent_id=request.agent_id, reason=waits.value)
            return Registered(answer=answer, state=AgentState.QUEUED, written=True)
        case Create():
            row = _row(request, workflow_id, pool, turn, standing.tier, now, AgentState.STARTING, None)
            row.started_at, row.deadline_at = now, now + deadline
            session.add(row)
            admitted = fact(EventKind.ADMITTED, AgentState.STARTING, waitedSeconds=0, attempt=1)
            starting = fact(EventKind.STARTING, AgentState.STARTING, attempt=1)
            await events.append(session, row, now, *_arrival(None, {}), admitted, starting)
            answer = StartAnswer(outcome=StartOutcome.CREATED, agent_id=request.agent_id)
            return Registered(answer=answer, state=AgentState.STARTING, begun=True, written=True)


def _arrival(waits: QueueReason | None, numbers: Numbers) -> list[events.Fact]:
    return [
        fact(EventKind.REQUESTED, AgentState.REQUESTED),
        fact(EventKind.QUEUED, AgentState.QUEUED, waits.value if waits else None, **numbers),
    ]


def _row(
    request: StartRequest,
    workflow_id: str,
    pool: Pool,
    turn: Turn,
    tier: Tier,
    now: datetime,
    state: AgentState,
    waits: QueueReason | None,
) -> Agent:
    key = turn.key(tier)
    return Agent(
        agent_id=request.agent_id,
        user_id=request.user_id,
        project_id=request.project_id,
        workflow_id=workflow_id,
        template=request.template,
        pool=request.pool,
        cluster=pool.cluster,
        runtime=pool.runtime,
        tier=tier.value,
        state=state.value,
        reason=waits.value if waits else None,
        attempt=1,
        restart_count=0,
        event_seq=0,
        order_front=key.front,
        order_tier=key.tier_rank,
        order_fair=key.fair,
        order_at=key.at,
        order_since=turn.since,
        order_others=turn.others,
        created_at=now,
        admitted_at=now if state is AgentState.STARTING else None,
        admission_seen_at=now if state is AgentState.STARTING else None,
        last_activity_at=now,
        keepable=False,
    )
