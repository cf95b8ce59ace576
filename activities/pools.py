"""Slots of a pool given in order, the winners told, and slots given back by who cannot use theirs."""

import asyncio
from datetime import UTC, datetime

import structlog
from temporalio import activity

from activities.contracts import Life, Rejoined
from activities.hearing import heard, wake_pools
from activities.messages import Granted, PoolRef
from activities.ports import Meter, Signals, Unmetered
from activities.turns import Turns
from core.db.engine import Db
from core.db.repositories import queue, rejoining
from core.domain.admission import QueueReason
from core.domain.lifecycle import AgentState
from core.settings import Settings

log = structlog.get_logger()
# A burst of grants must not take all of the server's attention at once.
_AT_ONCE = 16


class PoolActivities:
    def __init__(self, db: Db, settings: Settings, signals: Signals, meter: Meter | None = None) -> None:
        self._db = db
        self._turns = Turns(meter or Unmetered())
        self._settings = settings
        self._signals = signals
        self._pools = settings.all_pools()

    @activity.defn(name="grant_slots")
    async def grant_slots(self, ask: PoolRef) -> Granted:
        """Give what is free and signal every winner not heard of yet. The row is the grant, so twice does no harm."""
        pool = self._pools.get(ask.pool)
        if pool is None:
            # Removed from the configuration while agents waited in it: nothing can be given.
            log.warning("pool.unknown", pool=ask.pool)
            return Granted(granted=0, waiting=0, unseen=0)
        async with self._db.transaction() as session:
            done = await queue.grant(
                session, ask.pool, pool, self._settings.tiers, datetime.now(UTC), self._settings.queue.max
            )
        self._turns.granted(done.given)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def tell(winner: queue.Winner) -> None:
            async with gate:
                told = self._signals.admit(winner.workflow_id, winner.agent_id, winner.attempt)
                if await heard(told, "admitted", agent_id=winner.agent_id) is False:
                    log.warning("grant.unclaimed", agent_id=winner.agent_id)

        await asyncio.gather(*(tell(winner) for winner in done.unseen))
        return Granted(granted=done.granted, waiting=done.waiting, unseen=len(done.unseen))

    @activity.defn(name="rejoin")
    async def rejoin(self, life: Life) -> Rejoined:
        """Let a restart that has no room wait in line; one that has, or whose pool is no more, goes on."""
        pool = self._pools.get(life.pool)
        if pool is None:
            return Rejoined(applied=False, state=AgentState.RESTARTING, attempt=life.attempt)
        now = datetime.now(UTC)
        async with self._db.transaction() as session:
            moved = await rejoining.rejoin(
                session, life.agent_id, life.attempt, life.pool, pool, self._settings.queue.max, now
            )
        waits_for = QueueReason.NO_NODE if moved.state is AgentState.QUEUED else None
        self._turns.took(life, moved, now, waits_for)
        if moved.state is AgentState.QUEUED:
            await wake_pools(self._signals.wake_pool, [life.pool])
        return Rejoined(applied=moved.applied, state=moved.state, attempt=moved.attempt, waits_for=waits_for)
