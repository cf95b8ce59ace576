"""One look of the reaper, started by a schedule: what exists against what is owned, both ways."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import contracts, messages
    from workflows.options import REAP


@workflow.defn(name="Reaper")
class Reaper:
    @workflow.run
    async def run(self) -> messages.Reaped:
        return await workflow.execute_activity(contracts.reap, messages.Nothing(), **REAP)
