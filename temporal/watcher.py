"""Turns what a runtime sees into signals: usable, ended, vanished. One watch for all agents of a runtime."""

import asyncio

import structlog

from core.db.engine import Db
from core.db.repositories import upkeep
from core.domain.lifecycle import AgentState
from core.domain.orders import FailureReport
from core.domain.recovery import FailureKind
from core.errors import RuntimeFault, Unavailable
from core.ids import agent_workflow_id
from core.runtime.base import AgentRuntime, Observation, Phase
from temporal.lives import Lives

log = structlog.get_logger()
RELIST_SECONDS = 300.0
_PAUSE = 0.5
_LONGEST_PAUSE = 10.0


class Watcher:
    """Lists, then watches; lists again after any break and every five minutes, so no lost event stays lost.

    Signals name agent and attempt and are dropped by a life they do not fit, so saying a thing twice does no harm.
    """

    def __init__(self, name: str, runtime: AgentRuntime, db: Db, lives: Lives) -> None:
        self._name = name
        self._runtime = runtime
        self._db = db
        self._lives = lives

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
            except (RuntimeFault, Unavailable, OSError) as error:
                log.warning("watch.broken", runtime=self._name, error=type(error).__name__)
                pause = min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _look_and_watch(self) -> None:
        await self._compare(await self._runtime.list())
        async for seen in self._runtime.watch():
            await self._tell(seen)

    async def _compare(self, present: list[Observation]) -> None:
        """Tell of everything that is there, and of everything that should be and is not."""
        for seen in present:
            await self._tell(seen)
        there = {(seen.agent_id, seen.attempt) for seen in present}
        async with self._db.transaction() as session:
            rows = await upkeep.living(session)
        for row in rows:
            if row.runtime != self._name or row.state is not AgentState.RUNNING:
                continue
            if (row.agent_id, row.attempt) not in there:
                report = FailureReport(agent_id=row.agent_id, attempt=row.attempt, kind=FailureKind.RUNTIME_GONE)
                await self._lives.failed(row.workflow_id, report)

    async def _tell(self, seen: Observation) -> None:
        if not seen.user_id or not seen.project_id:
            return
        workflow_id = agent_workflow_id(seen.user_id, seen.project_id)
        if seen.phase is Phase.READY:
            await self._lives.ready(seen.agent_id, seen.attempt, workflow_id)
        elif seen.phase is Phase.EXITED:
            report = FailureReport(
                agent_id=seen.agent_id,
                attempt=seen.attempt,
                kind=seen.failure or FailureKind.EXITED,
                detail=seen.detail[:1000],
            )
            await self._lives.failed(workflow_id, report)
