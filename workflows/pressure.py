"""One look for pressure, started by a schedule: who must leave is asked to, and full disks are cleared."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import contracts, messages
    from workflows.options import CLEAR, EVICT, LOOK_FOR_PRESSURE


@workflow.defn(name="PressureWatch")
class PressureWatch:
    """Looking and acting are two activities: what was decided is in the history, and a try that failed half-way goes
    on with the same agents instead of choosing others.
    """

    @workflow.run
    async def run(self) -> messages.PressureSeen:
        at = workflow.now()
        seen: messages.PressureSeen = await workflow.execute_activity(
            contracts.look_for_pressure, messages.PressureLook(at=at), **LOOK_FOR_PRESSURE
        )
        if seen.leaving:
            ask = messages.Evictions(at=at, leaving=seen.leaving)
            await workflow.execute_activity(contracts.evict_agents, ask, **EVICT)
        if seen.emergencies:
            emergency = messages.Emergency(at=at, clusters=seen.emergencies)
            await workflow.execute_activity(contracts.clear_disks, emergency, **CLEAR)
        return seen
