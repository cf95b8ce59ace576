"""start-agent: answered from the row when the life is there, else by the agent's workflow, once for each key."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from api import problems
from api.auth import Identity
from api.deps import Deps
from api.schemas.agents import PendingBody, QueuedBody, StartBody, StartedBody, WaitRange, agent_body, connections_of
from api.services import schedule
from core.db.repositories import agents, flows, idempotency, projects, queue, scheduled
from core.db.repositories.agents import AgentView
from core.db.repositories.idempotency import Kept, KeyedBy
from core.domain.admission import RejectReason
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartOutcome, StartRequest
from core.errors import BerthError, Busy, InvalidRequest, Rejected, Unavailable
from core.ids import new_agent_id
from core.settings import Settings

log = structlog.get_logger()

# What the decision about a start may refuse it for, for OpenAPI. A full queue is no matter of rights: come back later.
REFUSALS: tuple[problems.type_or_code, ...] = tuple(
    (Busy if reason is RejectReason.QUEUE_FULL else Rejected, reason.value) for reason in RejectReason
)
_PENDING_RETRY_SECONDS = 2
_QUEUE_FULL_MOST_SECONDS = 3600
# One order is bounded by the client's own limits (5 s for an answer); this is for a client that breaks its word.
_ORDER_SECONDS = 20


@dataclass(frozen=True)
class StartReply:
    """An answer as it goes out: the body is what is kept under the key, byte for byte in meaning."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def media_type(self) -> str:
        return problems.MEDIA_TYPE if self.status >= 400 else "application/json"


@dataclass(frozen=True)
class _Flight:
    key: str | None
    template: str
    task: asyncio.Task[StartAnswer]


class Starter:
    """Serves start-agent for one process.

    Calls for one user's project that need the workflow share one order to it: Temporal takes 10 updates at a time a
    workflow, and 2,000 in a run. Replicas do not know of each other; rows and keys in Postgres make them agree.
    """

    def __init__(self, deps: Deps, undecided: Callable[[], None]) -> None:
        """`undecided` is told of each start that no worker decided in time."""
        self._deps = deps
        self._undecided = undecided
        self._flights: dict[tuple[str, str], _Flight] = {}

    async def close(self) -> None:
        """Give up orders under way; their keys still find the outcome later."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def start(self, who: Identity, project_id: str, body: StartBody, key: str | None) -> StartReply:
        """Raises `NotFound`, `KeyReused`, `InvalidRequest` (`unknown_template`, `start_at_too_far`), `Conflict`
        (`too_many_scheduled_starts`), `Busy`, `Unavailable`."""
        booked = None
        by = _keyed(who, project_id, body, key)
        async with self._deps.acting(who) as (session, _):
            await projects.require_member(session, project_id, who.user_id)
            # The agent first: whoever sees its row then also sees what was decided under the key in that transaction.
            found = await agents.current(session, who.user_id, project_id)
            kept = await idempotency.claim(session, by, self._deps.clock()) if by else Kept()
            if kept.status is not None and kept.body is not None:
                return StartReply(kept.status, kept.body)
            template, pool = placement(self._deps.settings, body.template)
            if kept.outcome is not None:
                return await self._settle(session, kept.outcome, by)
            now = self._deps.clock()
            later = schedule.later(body.start_at, now)
            if later is not None:
                booked = await scheduled.book(session, who.user_id, project_id, body.template, later, now)
                if by is not None:
                    await schedule.keep_answer(session, by, booked)
            elif found is not None and found.state is not AgentState.DRAINING:
                return await self._settle(session, _as_it_is(found), by, found)
        if booked is not None:
            await schedule.begin(self._deps.lives, booked)
            return StartReply(202, schedule.answer_of(booked))
        request = StartRequest(
            agent_id=new_agent_id(),
            user_id=who.user_id,
            project_id=project_id,
            template=template,
            pool=pool,
            key=key,
            body_hash=by.body_hash if by else "",
        )
        try:
            outcome = await self._order(request, found)
            if await self._is_of_yesterday(who, request, outcome):
                outcome = await self._order(request, found, anew=True)
        except Unavailable as error:
            if error.error_code != "worker_silent":
                raise
            self._undecided()
            return _pending(project_id)
        if outcome.reason == RejectReason.QUEUE_FULL:
            raise await self._full(who, pool, outcome)
        async with self._deps.acting(who) as (session, _):
            # The decision that was made in the key's own name counts, whichever replica carried it there.
            decided = by and await idempotency.outcome_of(session, by.user_id, by.scope, by.key)
            other = outcome.of_another(request)
            if not decided and other is not None and await agents.is_over(session, other):
                # Its workflow died between writing the end and knowing. It ends as soon as it knows, and whoever asks
                # again then gets the next life.
                return _pending(project_id)
            return await self._settle(session, decided or outcome, by)

    async def _is_of_yesterday(self, who: Identity, request: StartRequest, outcome: StartAnswer) -> bool:
        """Whether a key was answered with an agent whose life is over: when it was first asked, it was there."""
        other = outcome.of_another(request)
        if request.key is None or other is None:
            return False
        async with self._deps.acting(who) as (session, _):
            return await agents.is_over(session, other)

    async def _order(self, request: StartRequest, found: AgentView | None, *, anew: bool = False) -> StartAnswer:
        """The workflow's answer; to a call that joined another's order, the agent is there already.

        A refusal of another template says nothing of this one's: then it is ordered again. Each time round, an order of
        somebody else's has been answered.
        """
        place = (request.user_id, request.project_id)
        while True:
            flight = self._flights.get(place)
            joined = flight is not None and (flight.key is None or flight.key != request.key)
            if flight is None:
                task = asyncio.create_task(self._carry_out(request, found, anew))
                flight = _Flight(request.key, request.template, task)
                flight.task.add_done_callback(lambda task: self._landed(place, task))
                self._flights[place] = flight
            # Shielded: a caller who hangs up takes neither the order nor the others' answer with him.
            answer = await asyncio.shield(flight.task)
            if answer.outcome is StartOutcome.REJECTED and flight.template != request.template:
                continue
            if joined and answer.outcome is StartOutcome.CREATED:
                return answer.model_copy(update={"outcome": StartOutcome.EXISTING})
            return answer

    def _landed(self, place: tuple[str, str], task: asyncio.Task[StartAnswer]) -> None:
        self._flights.pop(place, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Also told to whoever still waits; when all have hung up, this is its only trace.
            log.info("start.order_failed", user_id=place[0], project_id=place[1], kind=type(error).__name__)

    async def _carry_out(self, request: StartRequest, found: AgentView | None, anew: bool) -> StartAnswer:
        try:
            async with asyncio.timeout(_ORDER_SECONDS):
                if found is not None and found.keepable and await self._deps.lives.keep(found):
                    return StartAnswer(outcome=StartOutcome.EXISTING, agent_id=found.agent_id)
                return await self._deps.lives.start(request, anew=anew)
        except TimeoutError:
            raise Unavailable("no worker answered in time", code="worker_silent") from None

    async def _settle(
        self, session: AsyncSession, outcome: StartAnswer, by: KeyedBy | None, found: AgentView | None = None
    ) -> StartReply:
        """Build the answer from outcome and row, and keep it; what another call kept first is given instead."""
        if outcome.outcome is StartOutcome.REJECTED:
            status, body = 403, problems.body_of(_refusal(outcome))
        else:
            view = await self._view(session, outcome, found)
            structlog.contextvars.bind_contextvars(agent_id=view.agent_id)
            status, body = self._agent_answer(outcome, view)
        if by is not None:
            kept = await idempotency.store(session, by, outcome, status, body)
            status, body = kept.status or status, kept.body or body
        return StartReply(status, body)

    async def _full(self, who: Identity, pool: str, outcome: StartAnswer) -> Busy:
        """The line has a place again when its first is let in: the estimate says when to come back."""
        async with self._deps.acting(who) as (session, _):
            now = await flows.turnover(session, pool, self._deps.settings.rules())
        minutes = now.next_grant().minutes
        again = min(60 * minutes, _QUEUE_FULL_MOST_SECONDS)
        return Busy("the queue is full", code=RejectReason.QUEUE_FULL.value, action=outcome.action, retry_after=again)

    async def _view(self, session: AsyncSession, outcome: StartAnswer, found: AgentView | None) -> AgentView:
        view = found or await agents.get(session, outcome.agent_id or "")
        if view is None:
            raise Unavailable("the agent's row is not there yet")
        return await queue.with_wait(session, view, self._deps.settings.rules())

    def _agent_answer(self, outcome: StartAnswer, view: AgentView) -> tuple[int, dict[str, Any]]:
        if view.waiting and view.position is not None:
            low, high = view.estimated_wait or (0, 0)
            queued = QueuedBody(
                agent_id=view.agent_id,
                position=view.position,
                estimated_wait_minutes=view.estimated_wait_minutes or 0,
                estimated_wait=WaitRange(low=low, high=high),
                reason=view.reason or outcome.reason,
            )
            return 202, queued.model_dump(mode="json", by_alias=True)
        started = StartedBody(agent=agent_body(view), connections=connections_of(view))
        status = 200 if outcome.outcome is StartOutcome.EXISTING else 201
        return status, started.model_dump(mode="json", by_alias=True)


def placement(settings: Settings, template: str | None) -> tuple[str, str]:
    """Template and pool of a request. Raises `InvalidRequest` (`unknown_template`)."""
    try:
        return settings.place_of(template)
    except KeyError:
        raise InvalidRequest("there is no such template", code=RejectReason.UNKNOWN_TEMPLATE.value) from None


def _keyed(who: Identity, project_id: str, body: StartBody, key: str | None) -> KeyedBy | None:
    if key is None:
        return None
    canonical = body.model_dump_json(by_alias=True, exclude_none=True)
    return KeyedBy(
        user_id=who.user_id,
        scope=idempotency.start_scope(project_id),
        key=key,
        body_hash=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def _as_it_is(found: AgentView) -> StartAnswer:
    outcome = StartOutcome.QUEUED if found.waiting else StartOutcome.EXISTING
    return StartAnswer(outcome=outcome, agent_id=found.agent_id, reason=found.reason)


def _pending(project_id: str) -> StartReply:
    # An id in a header's URL must be ASCII; whatever it holds, it stays one query value.
    headers = {
        "Location": f"/api/agents?projectId={quote(project_id, safe='')}",
        "Retry-After": str(_PENDING_RETRY_SECONDS),
    }
    return StartReply(202, PendingBody().model_dump(mode="json", by_alias=True), headers)


def _refusal(outcome: StartAnswer) -> BerthError:
    reason = outcome.reason or "rejected"
    return Rejected(
        _SENTENCES.get(reason, "refused"), code=reason, action=outcome.action, status="rejected", reason=reason
    )


_SENTENCES = {
    RejectReason.MAX_AGENTS.value: "you have as many agents as your subscription allows",
    RejectReason.SUBSCRIPTION.value: "your subscription is not active",
    RejectReason.UNKNOWN_TEMPLATE.value: "there is no such template",
    RejectReason.MAX_PROJECT_AGENTS.value: "the project has as many agents as it may have",
    RejectReason.UNKNOWN_POOL.value: "the pool of this template is not known where agents are made",
    RejectReason.TOO_LARGE.value: "no machine is large enough for this template, not even an empty one",
}
