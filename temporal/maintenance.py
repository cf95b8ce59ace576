"""Runs of maintenances to come, as the API begins them."""

import asyncio
from datetime import UTC, datetime, timedelta

from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from core.domain.orders import MaintenanceOrder
from core.ids import maintenance_workflow_id
from temporal.client import translated
from workflows.maintenance import Maintenance
from workflows.options import CONTROL_QUEUE, TASK_TIMEOUT

_TIMEOUT = timedelta(seconds=5)
_TOLD_SECONDS = 5.0


async def begin(client: Client, maintenance_id: str, order: MaintenanceOrder) -> int | None:
    """See that whoever lives there then is warned in time, and return how many were, where that is known at once.

    None when it is to come, or takes longer. Raises `Unavailable` when Temporal does not answer.
    """
    what = f"pool {order.pool}" if order.node is None else f"machine {order.node}"
    with translated():
        run = await client.start_workflow(
            Maintenance.run,
            order,
            id=maintenance_workflow_id(maintenance_id),
            task_queue=CONTROL_QUEUE,
            task_timeout=TASK_TIMEOUT,
            start_delay=max(order.warn_at - datetime.now(UTC), timedelta(0)),
            static_summary=f"maintenance of {what}, warned of at {order.warn_at:%F %T}Z"[:190],
            rpc_timeout=_TIMEOUT,
        )
    if order.warn_at > datetime.now(UTC):
        return None
    try:
        async with asyncio.timeout(_TOLD_SECONDS):
            return (await run.result()).agents
    except (TimeoutError, WorkflowFailureError, RPCError):
        # It goes on by itself; only the number is not known here.
        return None
