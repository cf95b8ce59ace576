"""A machine or a pool that is to be serviced: whose agents live there, and that they are told to go in time."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog
from temporalio import activity

from activities.beats import beating
from activities.hearing import heard
from activities.messages import Warned
from activities.ports import Signals
from core.db.engine import Db
from core.db.repositories import upkeep
from core.db.repositories.upkeep import LivingRow
from core.domain.lifecycle import HOLDING, EndReason
from core.domain.orders import MaintenanceOrder, StopOrder
from core.domain.timings import MOST_GRACE_SECONDS
from core.errors import RuntimeFault
from core.runtime.base import AgentRuntime
from core.settings import Settings

log = structlog.get_logger()
_LIST_SECONDS = 30.0
_AT_ONCE = 16


class MaintenanceActivities:
    """Telling twice does no harm: a grace is only ever made shorter."""

    def __init__(self, db: Db, settings: Settings, signals: Signals, runtimes: Mapping[str, AgentRuntime]) -> None:
        self._db = db
        self._settings = settings
        self._signals = signals
        self._runtimes = runtimes

    @activity.defn(name="warn_of_maintenance")
    async def warn_of_maintenance(self, ask: MaintenanceOrder) -> Warned:
        """Order all that hold a place there to drain, so that they are gone by then. Who waits in line stays in it.

        Raises a `RuntimeFault` or TimeoutError, after all others were told, for a runtime that does not say whom it
        has on the machine.
        """
        return await beating(self._warn(ask), to_its_end=False)

    async def _warn(self, ask: MaintenanceOrder) -> Warned:
        # Tried again for a runtime that is silent, it is still about those whom the first try was about: once the
        # machine is back in service, newcomers are at home there.
        since = activity.info().scheduled_time
        there, silent = (None, None) if ask.node is None else await self._on(ask.node, since)
        # Read after what is there was seen: of an attempt that has moved on since, the machine is another one's matter.
        async with self._db.transaction() as session:
            holders = [row for row in await upkeep.living(session) if row.state in HOLDING]
        if there is None:
            concerned = [row for row in holders if row.pool == ask.pool]
        else:
            concerned = [row for row in holders if (row.agent_id, row.attempt) in there]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def tell(row: LivingRow) -> bool:
            async with gate:
                order = StopOrder(
                    agent_id=row.agent_id,
                    reason=EndReason.MAINTENANCE,
                    grace_seconds=self._grace(ask, row),
                    detail=ask.detail,
                )
                return bool(
                    await heard(self._signals.order_stop(row.workflow_id, order), "stop", agent_id=row.agent_id)
                )

        told = sum(await asyncio.gather(*(tell(row) for row in concerned)))
        log.warning("maintenance.warned", pool=ask.pool, node=ask.node, agents=told)
        if silent is not None:
            raise silent
        return Warned(agents=told)

    async def _on(self, node: str, until: datetime) -> tuple[set[tuple[str, int]], Exception | None]:
        """The attempts on a machine that were made until then, and what kept a runtime from telling its own."""
        there: set[tuple[str, int]] = set()
        silent: Exception | None = None
        for name, runtime in sorted(self._runtimes.items()):
            try:
                async with asyncio.timeout(_LIST_SECONDS):
                    on_it = [seen for seen in await runtime.list() if seen.node == node]
                there |= {
                    (seen.agent_id, seen.attempt)
                    for seen in on_it
                    if seen.created_at is None or seen.created_at <= until
                }
            except (RuntimeFault, TimeoutError) as error:
                log.warning("maintenance.runtime_silent", runtime=name, kind=type(error).__name__)
                silent = error
        return there, silent

    def _grace(self, ask: MaintenanceOrder, row: LivingRow) -> float | None:
        """As long as it may stay to be gone when it begins, and never less than what its template promises (None)."""
        if ask.starts_at is None:
            return None
        own = self._settings.timings_of_living(row.template)
        left = (ask.starts_at - datetime.now(UTC)).total_seconds() - own.leaving_seconds
        return None if left <= own.grace_seconds else min(left, MOST_GRACE_SECONDS)
