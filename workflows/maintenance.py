"""A maintenance to come: when it is time, whoever lives there is warned."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import contracts
    from activities.messages import Warned
    from core.domain.orders import MaintenanceOrder
    from workflows.options import MAINTAIN


@workflow.defn(name="Maintenance")
class Maintenance:
    """The server holds its first step back until it is time, so a run that waits is held to no release of workers.

    Cancelled or terminated before that, nothing of it has happened.
    """

    @workflow.run
    async def run(self, order: MaintenanceOrder) -> Warned:
        # By the clock all the same: a run that was reset by hand is not held back.
        while (left := order.warn_at - workflow.now()) > timedelta(0):
            await workflow.sleep(left, summary="until it is time")
        warned: Warned = await workflow.execute_activity(contracts.warn_of_maintenance, order, **MAINTAIN)
        return warned
