"""Runs of maintenances to come, as the API begins them."""

from datetime import UTC, datetime, timedelta

from temporalio.client import Client

from core.domain.orders import MaintenanceOrder
from core.ids import maintenance_workflow_id
from temporal.client import translated
from workflows.maintenance import Maintenance
from workflows.options import CONTROL_QUEUE, TASK_TIMEOUT

_TIMEOUT = timedelta(seconds=5)


async def begin(client: Client, maintenance_id: str, order: MaintenanceOrder) -> None:
    """See that whoever lives there then is warned in time. Raises `Unavailable` when Temporal does not answer."""
    what = f"pool {order.pool}" if order.node is None else f"machine {order.node}"
    with translated():
        await client.start_workflow(
            Maintenance.run,
            order,
            id=maintenance_workflow_id(maintenance_id),
            task_queue=CONTROL_QUEUE,
            task_timeout=TASK_TIMEOUT,
            start_delay=max(order.warn_at - datetime.now(UTC), timedelta(0)),
            static_summary=f"maintenance of {what}, warned of at {order.warn_at:%F %T}Z"[:190],
            rpc_timeout=_TIMEOUT,
        )
