"""Stands in for Temporal: orders are carried out on the real database at once, and counted."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from core.db.engine import Db
from core.db.repositories import admission, agents, clusters, moves, queue
from core.db.repositories.agents import AgentView, fact
from core.db.repositories.scheduled import ScheduledView
from core.domain.admission import RejectReason
from core.domain.events import EventKind
from core.domain.lifecycle import KEEPABLE, WAITING, AgentState
from core.domain.orders import (
    AbandonOrder,
    FailureReport,
    MaintenanceOrder,
    OrderAnswer,
    StartAnswer,
    StartOutcome,
    StartRequest,
    StopOrder,
    Verdict,
)
from core.domain.sizes import Size
from core.domain.thresholds import Load, Look, over
from core.domain.timings import Timings
from core.errors import Unavailable
from core.ids import agent_workflow_id
from core.settings import Settings

_DRAINABLE = {AgentState.STARTING, AgentState.RUNNING, AgentState.RESTARTING}


class SimulatedSchedule:
    """Notes who is waited for. `away` makes every order fail so."""

    def __init__(self) -> None:
        self.begun: dict[str, datetime] = {}
        self.away: Unavailable | None = None

    async def begin(self, start: ScheduledView) -> None:
        if self.away is not None:
            raise self.away
        self.begun[start.scheduled_start_id] = start.start_at

    async def withdraw(self, scheduled_start_id: str) -> bool:
        if self.away is not None:
            raise self.away
        return self.begun.pop(scheduled_start_id, None) is not None


class SimulatedLives:
    """One worker's view of all lives. `away` makes every order fail so; `gate` holds starts until it is set.

    `unattended`: no workflow runs that could take an order.
    """

    def __init__(self, db: Db, settings: Settings) -> None:
        self.db = db
        self.settings = settings
        self.scheduled = SimulatedSchedule()
        self.orders: Counter[str] = Counter()
        self.stops: list[StopOrder] = []
        self.abandoned: list[AbandonOrder] = []
        self.pools: list[str] = []
        self.maintenances: list[MaintenanceOrder] = []
        self.warned = 2
        self.sizes: list[Size] = []
        self.verdict = OrderAnswer(verdict=Verdict.DONE, state=AgentState.RUNNING)
        self.away: Unavailable | None = None
        # An agent that its workflow takes for living.
        self.behind: str | None = None
        self.too_late = False
        self.unattended = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.most_at_once = 0
        self._at_once = 0
        self._turns: dict[str, asyncio.Lock] = {}
        # What keys were told, by workflow; the server keeps it until another run begins.
        self._told: dict[str, dict[str, StartAnswer]] = {}

    async def look(self, total: int, too_large: dict[str, str] | None = None, **load: float) -> None:
        """Measure the cluster: room for `total` agents, and what is in use."""
        seen, limits = Load.model_validate(load), self.settings.thresholds
        look = Look(agents=0, load=seen, limits=limits, over=over(seen, limits), too_large=too_large or {})
        async with self.db.transaction() as session:
            await clusters.record_look(session, "local", _now(), total=total, choked=look.choked, detail=look.stored())

    async def start(self, request: StartRequest, *, anew: bool = False) -> StartAnswer:
        self._count("start")
        workflow_id = agent_workflow_id(request.user_id, request.project_id)
        told = self._told.setdefault(workflow_id, {})
        if request.key in told and not anew:
            return told[request.key]
        answer = await self._decide(request, workflow_id)
        if answer.outcome in (StartOutcome.CREATED, StartOutcome.QUEUED):
            told.clear()
        if request.key is not None and answer.reason != RejectReason.QUEUE_FULL:
            told[request.key] = answer
        return answer

    async def _decide(self, request: StartRequest, workflow_id: str) -> StartAnswer:
        if self.behind is not None:
            return StartAnswer(outcome=StartOutcome.EXISTING, agent_id=self.behind)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self.entered.set()
            await self.gate.wait()
            # A workflow takes one thing at a time, wherever its callers are.
            async with self._turns.setdefault(workflow_id, asyncio.Lock()):
                return await self._register(request, workflow_id)
        finally:
            self._at_once -= 1

    async def _register(self, request: StartRequest, workflow_id: str) -> StartAnswer:
        rules = self.settings.rules()
        pool = self.settings.all_pools()[request.pool]
        async with self.db.transaction() as session:
            found = await agents.current(session, request.user_id, request.project_id)
            if found is not None and found.state is not AgentState.DRAINING:
                return StartAnswer(outcome=StartOutcome.EXISTING, agent_id=found.agent_id)
            before = found.agent_id if found else None
            deadline = timedelta(seconds=self.settings.timings.ready_deadline_seconds)
            made = await admission.register(session, request, workflow_id, before, pool, rules, deadline, _now())
        assert made.answer is not None
        return made.answer

    async def stop(self, agent: AgentView, order: StopOrder) -> bool:
        self._count("stop")
        self.stops.append(order)
        if agent.state in WAITING:
            await self.move(agent.agent_id, AgentState.CANCELLED, EventKind.CANCELLED)
            # Those behind it have moved up, and who looks is told.
            async with self.db.transaction() as session:
                await queue.announce(session, agent.pool)
        elif agent.state in _DRAINABLE:
            grace = order.grace_seconds or 0
            changes = {
                "keepable": order.reason in KEEPABLE and grace > 0,
                "deadline_at": _now() + timedelta(seconds=grace) if grace else None,
            }
            await self.move(agent.agent_id, AgentState.DRAINING, EventKind.DRAINING, order.reason, **changes)
        return True

    async def abandon(self, agent: AgentView, order: AbandonOrder, timings: Timings) -> None:
        self._count("abandon")
        self.abandoned.append(order)
        await self.end(agent.agent_id)

    async def keep(self, agent: AgentView) -> bool:
        self._count("keep")
        if self.too_late:
            return False
        await self.move(agent.agent_id, AgentState.RUNNING, EventKind.KEPT, keepable=False, deadline_at=None)
        return True

    async def restart(self, agent: AgentView) -> bool:
        self._count("restart")
        if self.unattended:
            return False
        await self.move(agent.agent_id, AgentState.RESTARTING, EventKind.RESTARTING)
        return True

    async def resize(self, agent: AgentView, size: Size) -> OrderAnswer:
        self._count("resize")
        self.sizes.append(size)
        return self.verdict

    async def migrate(self, agent: AgentView) -> OrderAnswer:
        self._count("migrate")
        return self.verdict

    async def wake_pool(self, pool: str) -> bool:
        self._count("wake_pool")
        self.pools.append(pool)
        return True

    async def maintain(self, maintenance_id: str, order: MaintenanceOrder) -> int | None:
        self._count("maintain")
        self.maintenances.append(order)
        return self.warned if order.warn_at <= datetime.now(UTC) else None

    async def ready(self, agent_id: str, attempt: int, workflow_id: str) -> bool:
        self._count("ready")
        return True

    async def failed(self, workflow_id: str, report: FailureReport) -> bool:
        self._count("failed")
        return True

    async def move(
        self, agent_id: str, to: AgentState, kind: EventKind, reason: str | None = None, **changes: Any
    ) -> None:
        """Move an agent on as its workflow would."""
        async with self.db.transaction() as session:
            agent = await agents.get(session, agent_id)
            assert agent is not None
            told = fact(kind, to, reason)
            moved = await moves.move(session, agent_id, agent.attempt, to, _now(), told, reason=reason, **changes)
        assert moved.applied, moved

    async def begin_again(self, agent_id: str) -> None:
        """The next attempt of one that restarts."""
        async with self.db.transaction() as session:
            agent = await agents.get(session, agent_id)
            assert agent is not None
            moved = await moves.begin(session, agent_id, agent.attempt + 1, _now(), _now() + timedelta(minutes=1))
        assert moved.applied, moved

    async def run(self, agent_id: str) -> None:
        await self.move(agent_id, AgentState.RUNNING, EventKind.READY)

    async def end(self, agent_id: str) -> None:
        """Drain it and be done."""
        async with self.db.transaction() as session:
            view = await agents.get(session, agent_id)
        if view is not None and view.state is not AgentState.DRAINING:
            await self.move(agent_id, AgentState.DRAINING, EventKind.DRAINING)
        await self.move(agent_id, AgentState.TERMINATED, EventKind.TERMINATED)

    def _count(self, order: str) -> None:
        self.orders[order] += 1
        if self.away is not None:
            raise self.away


def _now() -> datetime:
    return datetime.now(UTC)
