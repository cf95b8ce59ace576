"""Runs of scheduled starts as the API and the activities address them."""

from datetime import datetime, timedelta

from temporalio.client import Client
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from core.db.repositories.scheduled import ScheduledView
from core.ids import keyword, scheduled_of_workflow, scheduled_workflow_id
from temporal.client import taken, translated
from workflows.options import AGENT_PROJECT, AGENT_USER, CONTROL_QUEUE, TASK_TIMEOUT
from workflows.scheduled_start import ScheduledStart, ScheduledStartInput

_TIMEOUT = timedelta(seconds=5)
_LIST_TIMEOUT = timedelta(seconds=10)
_RUNNING = "WorkflowType='ScheduledStart' AND ExecutionStatus='Running'"
_PAGE = 500


class ScheduledStarts:
    """Every call is bounded and may be repeated. Raises `Unavailable` when Temporal does not answer."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def begin(self, start: ScheduledView) -> None:
        """See that a run waits for it. The row decides what a run may do, so one after a terminated one is welcome."""
        with translated():
            await self._client.start_workflow(
                ScheduledStart.run,
                ScheduledStartInput(scheduled_start_id=start.scheduled_start_id, start_at=start.start_at),
                id=scheduled_workflow_id(start.scheduled_start_id),
                task_queue=CONTROL_QUEUE,
                task_timeout=TASK_TIMEOUT,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"start for {start.user_id} in {start.project_id} at {start.start_at:%F %T}Z"[:190],
                search_attributes=TypedSearchAttributes(
                    [
                        SearchAttributePair(AGENT_USER, keyword(start.user_id)),
                        SearchAttributePair(AGENT_PROJECT, keyword(start.project_id)),
                    ]
                ),
                rpc_timeout=_TIMEOUT,
            )

    async def running(self) -> dict[str, datetime]:
        """Those that a run waits for, as the list shows them, perhaps a little late, and since when it does."""
        found: dict[str, datetime] = {}
        with translated():
            async for run in self._client.list_workflows(_RUNNING, page_size=_PAGE, rpc_timeout=_LIST_TIMEOUT):
                name = scheduled_of_workflow(run.id)
                if name is not None:
                    found[name] = run.start_time
        return found

    async def withdraw(self, scheduled_start_id: str) -> bool:
        """Let its run end; False when none goes on."""
        handle = self._client.get_workflow_handle(scheduled_workflow_id(scheduled_start_id))
        return await taken(handle.cancel(rpc_timeout=_TIMEOUT))
