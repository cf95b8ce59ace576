"""A look at one life: what its row, its channel and its runtime say now."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog
from temporalio import activity

from activities import contracts
from activities.contracts import Life
from core.db.engine import Db
from core.db.repositories import clusters, sights
from core.domain.lifecycle import AgentState
from core.domain.recovery import FailureKind
from core.domain.templates import cluster_of
from core.errors import RuntimeFault
from core.runtime.base import AgentRuntime, Observation, Phase
from core.settings import Settings

log = structlog.get_logger()
# A look takes one of the few places for short steps: a runtime that hangs must not hold up lives of another.
_OBSERVE_SECONDS = 2
_DEAF_SECONDS = 10


class LookActivities:
    """`runtimes` are asked about agents that do not come up; without them that is found out later, or not."""

    def __init__(self, db: Db, settings: Settings, runtimes: Mapping[str, AgentRuntime]) -> None:
        self._db = db
        self._runtimes = runtimes
        self._pools = settings.all_pools()
        self._deaf_until: dict[str, float] = {}

    @activity.defn(name="look")
    async def look(self, life: Life) -> contracts.Activity:
        async with self._db.single() as session:
            sight = await sights.of(session, life.agent_id, life.attempt, datetime.now(UTC))
        starting = sight.state is AgentState.STARTING and sight.attempt == life.attempt and not sight.ready
        seen = await self._observe(life) if starting else None
        if seen is not None and seen.failure is FailureKind.UNSCHEDULABLE:
            async with self._db.transaction() as session:
                await clusters.note_refusal(session, cluster_of(self._pools, life.pool), life.pool, datetime.now(UTC))
        return contracts.Activity(
            last_activity_at=sight.last_activity_at,
            ready=sight.ready or (seen is not None and seen.phase is Phase.READY),
            admitted=sight.admitted,
            state=sight.state,
            attempt=sight.attempt,
            trouble=seen.detail[:1000] if seen else "",
            failure=seen.failure if seen and seen.phase is Phase.EXITED else None,
        )

    async def _observe(self, life: Life) -> Observation | None:
        """What the runtime knows of an attempt; None when it cannot be asked in a moment, as it only adds words."""
        runtime = self._runtimes.get(life.runtime)
        clock = asyncio.get_running_loop().time
        if runtime is None or clock() < self._deaf_until.get(life.runtime, 0):
            return None
        try:
            async with asyncio.timeout(_OBSERVE_SECONDS):
                return await runtime.observe(life.agent_id, life.attempt)
        except (RuntimeFault, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                self._deaf_until[life.runtime] = clock() + _DEAF_SECONDS
            log.warning("agent.not_observed", agent_id=life.agent_id, why=str(error) or "no answer in time")
            return None
