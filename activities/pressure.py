"""A look for pressure: which machines run short, who is asked to leave, what is cleared away."""

from collections.abc import Mapping
from datetime import timedelta

import structlog
from temporalio import activity

from activities.beats import beating
from activities.hearing import heard
from activities.messages import Cleaned, Emergency, Evictions, Leaving, Nothing, PressureLook, PressureSeen
from activities.ports import Signals
from activities.profiles import Profiles
from activities.reaping import ReapingActivities
from core.db.engine import Db
from core.db.repositories import agents, credits, pressure
from core.domain.lifecycle import AgentState, EndReason
from core.domain.orders import StopOrder
from core.domain.pressure import Kind, respond
from core.domain.sizes import MOST_MIB
from core.domain.templates import Resources
from core.runtime.base import AgentRuntime
from core.settings import Settings

log = structlog.get_logger()
_PRUNE_SECONDS = 120.0
_LOOKS_MISSED = 3


class PressureActivities:
    """Looking changes nothing but when memory was last short; the orders that follow are each safe to give twice."""

    def __init__(
        self,
        db: Db,
        settings: Settings,
        signals: Signals,
        runtimes: Mapping[str, AgentRuntime],
        reaping: ReapingActivities,
    ) -> None:
        self._db = db
        self._settings = settings
        self._signals = signals
        self._runtimes = runtimes
        self._reaping = reaping
        self._profiles = Profiles(db, runtimes)

    @activity.defn(name="look_for_pressure")
    async def look_for_pressure(self, ask: PressureLook) -> PressureSeen:
        """Decide for each cluster. Asked again with the same moment, it is the same look and not a later one."""
        leaving: list[Leaving] = []
        emergencies: list[str] = []
        # While nobody looked, as when the schedule was paused, it may have been well and short again.
        recent = timedelta(seconds=_LOOKS_MISSED * self._settings.timings.pressure_seconds)
        for cluster in sorted({pool.cluster for pool in self._settings.all_pools().values()}):
            async with self._db.transaction() as session:
                seen = await pressure.strain(session, cluster, ask.at)
                if seen is None:
                    log.warning("pressure.unknown", cluster=cluster)
                    # What was short an hour ago, before nobody could look, has not lasted.
                    await pressure.note(session, cluster, None)
                    continue
                residents = await pressure.residents(session, cluster, ask.at, *self._kinds())
                found = respond(
                    seen.look,
                    residents,
                    lasts=seen.short_at is not None and timedelta(0) < ask.at - seen.short_at <= recent,
                    at=ask.at,
                )
                await pressure.note(session, cluster, ask.at if found.pressing else None)
            if found.queue_new:
                over = [str(each) for each in found.queue_new]
                log.warning("pressure.seen", cluster=cluster, over=over, evict=len(found.evict))
            leaving += [Leaving(cluster=cluster, eviction=each) for each in found.evict]
            if found.clean_up:
                emergencies.append(cluster)
        return PressureSeen(leaving=tuple(leaving), emergencies=tuple(emergencies))

    @activity.defn(name="evict_agents")
    async def evict_agents(self, ask: Evictions) -> Nothing:
        """Order each to drain, with warning and grace like any other. One that is going already is left alone.

        Counted and owed before it is ordered, so that no crash in between loses its user's place; and once, however
        often the order has to be given.
        """
        return await beating(self._evict(ask), to_its_end=False)

    async def _evict(self, ask: Evictions) -> Nothing:
        for leaving in ask.leaving:
            async with self._db.transaction() as session:
                agent = await agents.get(session, leaving.eviction.agent_id)
                if agent is None or agent.state is not AgentState.RUNNING:
                    continue
                if await credits.give(session, agent.user_id, agent.project_id, ask.at):
                    await pressure.note_eviction(session, leaving.cluster, leaving.eviction.reason)
            order = StopOrder(
                agent_id=agent.agent_id, reason=EndReason.RESOURCE_PRESSURE, detail=leaving.eviction.detail
            )
            told = self._signals.order_stop(agent.workflow_id, order)
            if await heard(told, "stop", agent_id=agent.agent_id):
                log.warning("agent.evicted", agent_id=agent.agent_id, reason=leaving.eviction.reason.value)
        return Nothing()

    @activity.defn(name="clear_disks")
    async def clear_disks(self, ask: Emergency) -> Cleaned:
        """What nobody needs any more: rows and artefacts past their retention, profiles unused for long."""
        return await beating(self._clear(ask), to_its_end=False)

    async def _clear(self, ask: Emergency) -> Cleaned:
        await self._reaping.forget_ended(ask.at)
        unused = timedelta(days=self._settings.retention.profile_days)
        profiles = await self._profiles.prune(unused, self._runtimes_of(ask.clusters), seconds=_PRUNE_SECONDS)
        log.warning("pressure.cleared", clusters=list(ask.clusters), profiles=profiles)
        return Cleaned(profiles=profiles)

    def _runtimes_of(self, clusters: tuple[str, ...]) -> set[str]:
        return {pool.runtime for pool in self._settings.all_pools().values() if pool.cluster in clusters}

    def _kinds(self) -> tuple[dict[str, Kind], Kind]:
        """Of the templates that there are, and of any other."""
        settings = self._settings
        kinds = {
            name: Kind(resources=template.resources, away_seconds=settings.timings_of(name).away_seconds)
            for name, template in settings.templates.items()
        }
        # What one may have whose template is no more, nobody knows.
        unknown = Resources(memory_most_mib=MOST_MIB)
        return kinds, Kind(resources=unknown, away_seconds=settings.timings.away_seconds)
