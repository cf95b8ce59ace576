"""Workflow runs that no row stands for: of lives that are over or unknown, of scheduled starts that lead to nothing.

Only a run that shows that its start was decided is looked at, and a row is read after the run was seen: what is missing
or over then was there before, and never comes back.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from activities.ports import Owner, Signals
from activities.sweeps import Swept, sweep
from activities.told import Told
from core.db.engine import Db
from core.db.repositories import agents, scheduled
from core.db.repositories.agents import AgentView
from core.domain.lifecycle import FINAL, AgentState, EndReason
from core.domain.orders import StopOrder
from core.domain.value import Value

log = structlog.get_logger()
# What such a run shows of itself: nobody has decided about it yet, or it knows that it is over and is just ending.
_LET_BE = frozenset({None, AgentState.REQUESTED.value, *(state.value for state in FINAL)})


class LetBe(Value):
    """Somebody stands for it, or it cannot be proven that nobody does."""


class TellToStop(Value):
    """The row is over, so it finds out with its next step, and clears up by itself."""

    agent_id: str
    attempt: int


class EndForGood(Value):
    """There is no row, so none of its steps can succeed."""

    agent_id: str
    run_id: str


def judge(
    owner: Owner | None, row: AgentView | None, workflow_id: str, settled: datetime
) -> LetBe | TellToStop | EndForGood:
    """What becomes of a run, by its `owner` and the row read after it. What is younger than `settled` is let be."""
    if owner is None or owner.agent_id is None or owner.started_at is None or owner.state in _LET_BE:
        return LetBe()
    if row is None:
        # Also when it is busy: it tries a step again that finds no row.
        return EndForGood(agent_id=owner.agent_id, run_id=owner.run_id) if owner.started_at < settled else LetBe()
    if row.workflow_id != workflow_id or row.ended_at is None or row.ended_at >= settled or owner.deciding:
        return LetBe()
    return TellToStop(agent_id=owner.agent_id, attempt=row.attempt)


class OwnerlessRuns:
    """Two at once do no harm: a stop is the same the second time, and a run is terminated by its own id.

    Each kind is worked on for so many seconds at most.
    """

    def __init__(self, db: Db, signals: Signals, told: Told, seconds: float) -> None:
        self._db = db
        self._signals = signals
        self._told = told
        self._seconds = seconds

    async def end_lives(self, owners: Mapping[str, str | None], living: Collection[str], settle: timedelta) -> Swept:
        """End them or tell them to. `owners` as listed before `living` (agent ids) was read."""
        suspects = [run for run, agent_id in owners.items() if agent_id is not None and agent_id not in living]
        return await sweep([partial(self._end_life, run, settle) for run in suspects], self._seconds)

    async def _end_life(self, workflow_id: str, settle: timedelta) -> bool | None:
        owner = await self._signals.owner(workflow_id)
        if owner is None or owner.agent_id is None:
            return None
        async with self._db.transaction() as session:
            row = await agents.get(session, owner.agent_id)
        match judge(owner, row, workflow_id, datetime.now(UTC) - settle):
            case LetBe():
                return None
            case TellToStop(agent_id=agent_id, attempt=attempt):
                if self._told.lately(agent_id, attempt, EndReason.WORKFLOW_GONE):
                    return False
                log.warning("reaper.workflow", workflow_id=workflow_id, agent_id=agent_id, row="over")
                order = StopOrder(agent_id=agent_id, reason=EndReason.WORKFLOW_GONE, grace_seconds=0)
                if not await self._signals.order_stop(workflow_id, order):
                    return None
                self._told.note(agent_id, attempt, EndReason.WORKFLOW_GONE)
                return True
            case EndForGood(agent_id=agent_id, run_id=run_id):
                log.warning("reaper.workflow", workflow_id=workflow_id, agent_id=agent_id, run_id=run_id, row="missing")
                why = f"the reaper: the database knows no agent {agent_id}"
                return await self._signals.end_run(workflow_id, run_id, why) or None

    async def end_starts(self, settle: timedelta) -> Swept:
        """Tell those of scheduled starts to end; they write nothing where there is nothing to take back."""
        running = await self._signals.scheduled.running()
        settled = datetime.now(UTC) - settle
        names = [name for name, since in running.items() if since < settled]
        if not names:
            return Swept()
        async with self._db.transaction() as session:
            strays = await scheduled.without_future(session, names, settled)
        return await sweep([partial(self._end_start, name) for name in strays], self._seconds)

    async def _end_start(self, scheduled_start_id: str) -> bool | None:
        log.warning("reaper.scheduled_start", scheduled_start_id=scheduled_start_id)
        return await self._signals.scheduled.withdraw(scheduled_start_id) or None
