"""Turns what a runtime sees into signals: usable, ended, vanished. One watch for all agents of a runtime."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from activities.ports import Meter, Unmetered, note_runtime_error
from activities.told import Told
from core.db.engine import Db
from core.db.repositories import agents, upkeep
from core.domain.lifecycle import AgentState
from core.domain.orders import FailureReport
from core.domain.recovery import FailureKind
from core.errors import RuntimeFault, Unavailable
from core.ids import agent_workflow_id
from core.runtime.base import AgentRuntime, Observation, Phase
from temporal.deliveries import Deliveries
from temporal.lives import Lives

log = structlog.get_logger()
RELIST_SECONDS = 300.0
_PAUSE = 0.5
_LONGEST_PAUSE = 10.0


class Watcher:
    """Watches and lists; begins anew after any break and every five minutes, so no lost event stays lost.

    Signals name agent and attempt and are dropped by a life they do not fit, so saying a thing twice does no harm.
    """

    def __init__(self, name: str, runtime: AgentRuntime, db: Db, lives: Lives, meter: Meter | None = None) -> None:
        self._name = name
        self._meter = meter or Unmetered()
        self._runtime = runtime
        self._db = db
        self._lives = lives
        self._told = Told()

    async def run(self) -> None:
        """Watch until cancelled."""
        pause = _PAUSE
        while True:
            try:
                async with asyncio.timeout(RELIST_SECONDS):
                    await self._look_and_watch()
                pause = _PAUSE
            except TimeoutError:
                pause = _PAUSE
            except (RuntimeFault, Unavailable, RPCError, SQLAlchemyError, OSError) as error:
                log.warning("watch.broken", runtime=self._name, error=type(error).__name__)
                note_runtime_error(self._meter, error)
                pause = min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _look_and_watch(self) -> None:
        # Watched before it is listed: what changes while we look, however long that takes, is kept and told after it.
        changes = self._runtime.watch()
        upcoming = asyncio.create_task(_next(changes))  # there are streams that begin when they are asked
        try:
            async with Deliveries() as deliveries:
                await self._compare(deliveries)
                seen = await upcoming
                while seen is not None:
                    await deliveries.put(seen.agent_id, partial(self._tell, seen))
                    seen = await _next(changes)
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)

    async def _compare(self, deliveries: Deliveries) -> None:
        """Tell of everything that is there and not known to be well, and of everything that should be and is not.

        What was read for it, of thousands of agents, goes with the call and not with the watch after it.
        """
        # Rows first: what comes up while we look is then missing among the rows, and not among what exists.
        async with self._db.transaction() as session:
            rows = await upkeep.living(session)
        present = await self._runtime.list()
        mine = [row for row in rows if row.runtime == self._name and row.state is AgentState.RUNNING]
        running = {(row.agent_id, row.attempt) for row in mine}
        for seen in present:
            if seen.phase is not Phase.READY or (seen.agent_id, seen.attempt) not in running:
                word = seen.failure or seen.phase
                tell = partial(self._once, seen.agent_id, seen.attempt, word, partial(self._tell, seen))
                await deliveries.put(seen.agent_id, tell)
        there = {(seen.agent_id, seen.attempt) for seen in present}
        for row in mine:
            if (row.agent_id, row.attempt) not in there:
                report = _gone(row.agent_id, row.attempt)
                failed = partial(self._lives.failed, row.workflow_id, report)
                tell = partial(self._once, row.agent_id, row.attempt, report.kind, failed)
                await deliveries.put(row.agent_id, tell)

    async def _once(self, agent_id: str, attempt: int, word: str, tell: Callable[[], Awaitable[bool]]) -> None:
        """Tell what still holds at every look, but not to a life that took it at one of the last."""
        if not self._told.lately(agent_id, attempt, word) and await tell():
            self._told.note(agent_id, attempt, word)

    async def _tell(self, seen: Observation) -> bool:
        """Whether the life took it; False also where there is nothing to tell."""
        if not seen.user_id or not seen.project_id:
            return False
        workflow_id = agent_workflow_id(seen.user_id, seen.project_id)
        if seen.phase is Phase.READY:
            return await self._lives.ready(seen.agent_id, seen.attempt, workflow_id)
        if seen.phase is Phase.GONE:
            # Most go because they were removed on purpose, and their rows say so.
            async with self._db.transaction() as session:
                agent = await agents.get(session, seen.agent_id)
            if agent and agent.attempt == seen.attempt and agent.state in (AgentState.STARTING, AgentState.RUNNING):
                return await self._lives.failed(workflow_id, _gone(seen.agent_id, seen.attempt))
        elif seen.phase is Phase.EXITED:
            report = FailureReport(
                agent_id=seen.agent_id,
                attempt=seen.attempt,
                kind=seen.failure or FailureKind.EXITED,
                detail=seen.detail[:1000],
            )
            return await self._lives.failed(workflow_id, report)
        return False


async def _next(changes: AsyncIterator[Observation]) -> Observation | None:
    """None when the stream has ended."""
    try:
        return await anext(changes)
    except StopAsyncIteration:
        return None


def _gone(agent_id: str, attempt: int) -> FailureReport:
    told = "what it ran in is gone, and Berth did not remove it"
    return FailureReport(agent_id=agent_id, attempt=attempt, kind=FailureKind.RUNTIME_GONE, detail=told)
