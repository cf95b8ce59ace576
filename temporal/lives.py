"""Lives as the API and the activities address them: start, stop, keep, report, and who owns what."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from uuid import uuid4

import structlog
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from activities.ports import Owner
from core.db.repositories.agents import AgentView
from core.domain.admission import RejectReason
from core.domain.lifecycle import AgentState
from core.domain.orders import (
    AbandonOrder,
    FailureReport,
    Grant,
    KeepOrder,
    MaintenanceOrder,
    MigrateOrder,
    OrderAnswer,
    ReadyReport,
    ResizeOrder,
    RestartOrder,
    StartAnswer,
    StartRequest,
    StopOrder,
    Verdict,
)
from core.domain.sizes import Size
from core.domain.timings import Timings
from core.errors import Unavailable
from core.ids import agent_workflow_id, pool_workflow_id
from temporal import maintenance
from temporal.client import is_away, taken, translated
from temporal.runs import attributes, ending, summary
from temporal.scheduled import ScheduledStarts
from workflows.agent import AgentWorkflow
from workflows.life import AgentInput
from workflows.options import AGENT_ID, AGENT_STATE, CONTROL_QUEUE, HISTORY_LIMIT, TASK_TIMEOUT
from workflows.pool_queue import PoolQueue, PoolQueueInput

log = structlog.get_logger()
ANSWER_SECONDS = 5.0
_SIGNAL_TIMEOUT = timedelta(seconds=10)
_AGAIN_SECONDS = 0.05
# How long whoever orders a change to a running agent waits to hear what came of it.
_ORDER_SECONDS = 25.0
_Answer = TypeVar("_Answer")


class Lives:
    """Every call is bounded and may be repeated. Raises `Unavailable` when Temporal or its workers do not answer."""

    def __init__(self, client: Client, tick_seconds: float = 30, history_limit: int = HISTORY_LIMIT) -> None:
        self._client = client
        self._tick_seconds = tick_seconds
        self._history_limit = history_limit
        self._scheduled = ScheduledStarts(client)

    @property
    def scheduled(self) -> ScheduledStarts:
        return self._scheduled

    # ---- asked by users ---------------------------------------------------------------------------------------------

    async def start(self, request: StartRequest, *, anew: bool = False) -> StartAnswer:
        """One update-with-start. `Unavailable("worker_silent")`: it was handed in, nobody decided within 5 s.

        Asked again with the same key, it gives the answer that this was given first, which may be of a run that is over
        by now: the server keeps it. `anew` asks for what is true now; a full queue is never told of before.
        """
        update_id = uuid4().hex if anew else _update_id(request)
        try:
            answer = await _answered(lambda: self._update_with_start(request, update_id))
        except WorkflowUpdateFailedError as failed:
            # The run completed before it took the update (a life that ended this moment): the caller asks again.
            raise Unavailable("the previous life was just ending", code="worker_silent") from failed
        if answer.reason == RejectReason.QUEUE_FULL and request.key is not None and not anew:
            return await self.start(request, anew=True)
        return answer

    async def _update_with_start(self, request: StartRequest, update_id: str) -> StartAnswer:
        workflow_id = agent_workflow_id(request.user_id, request.project_id)
        operation = WithStartWorkflowOperation(
            AgentWorkflow.run,
            AgentInput(request=request, history_limit=self._history_limit),
            id=workflow_id,
            task_queue=CONTROL_QUEUE,
            task_timeout=TASK_TIMEOUT,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=summary(request),
            search_attributes=attributes(request, AgentState.REQUESTED),
        )
        try:
            return await self._client.execute_update_with_start_workflow(
                AgentWorkflow.start,
                request,
                start_workflow_operation=operation,
                id=update_id,
                rpc_timeout=timedelta(seconds=ANSWER_SECONDS),
            )
        finally:
            await _consume(operation)

    async def stop(self, agent: AgentView, order: StopOrder) -> bool:
        """Tell a life to drain; False when no workflow runs for it (the reaper will end its row)."""
        return await self.order_stop(agent.workflow_id, order.model_copy(update={"agent_id": agent.agent_id}))

    async def abandon(self, agent: AgentView, order: AbandonOrder, timings: Timings) -> None:
        """End a life without its runtime's word; where no workflow carries it any more, one is begun that does."""
        given = ending(agent, order, timings).model_copy(update={"history_limit": self._history_limit})
        with translated():
            await self._client.start_workflow(
                AgentWorkflow.run,
                given,
                id=agent.workflow_id,
                task_queue=CONTROL_QUEUE,
                task_timeout=TASK_TIMEOUT,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="abandon",
                start_signal_args=[order.model_copy(update={"agent_id": agent.agent_id})],
                search_attributes=attributes(given.request, agent.state),
                static_summary=summary(given.request),
                rpc_timeout=_SIGNAL_TIMEOUT,
            )

    async def keep(self, agent: AgentView) -> bool:
        """Take a warning back; True when the agent runs on."""
        handle, order = self._handle(agent.workflow_id), KeepOrder(agent_id=agent.agent_id)
        limit = timedelta(seconds=ANSWER_SECONDS)
        try:
            answer = await _answered(lambda: handle.execute_update(AgentWorkflow.keep, order, rpc_timeout=limit))
        except WorkflowUpdateFailedError:
            return False
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return answer.kept

    async def restart(self, agent: AgentView) -> bool:
        return await self._signal(agent.workflow_id, "restart", RestartOrder(agent_id=agent.agent_id))

    async def resize(self, agent: AgentView, size: Size) -> OrderAnswer:
        """Give a running agent other limits; what came of it. It goes on when nobody waits for the answer any more."""
        return await self._order(agent, "resize", ResizeOrder(agent_id=agent.agent_id, size=size))

    async def migrate(self, agent: AgentView) -> OrderAnswer:
        """Have a running agent moved to another machine; what came of it."""
        return await self._order(agent, "migrate", MigrateOrder(agent_id=agent.agent_id))

    async def _order(self, agent: AgentView, name: str, order: ResizeOrder | MigrateOrder) -> OrderAnswer:
        over = OrderAnswer(verdict=Verdict.WRONG_STATE, state=AgentState.TERMINATED)
        handle, limit = self._handle(agent.workflow_id), timedelta(seconds=ANSWER_SECONDS)

        try:
            accepted = await _answered(
                lambda: handle.start_update(
                    name,
                    order,
                    wait_for_stage=WorkflowUpdateStage.ACCEPTED,
                    result_type=OrderAnswer,
                    rpc_timeout=limit,
                )
            )
            async with asyncio.timeout(_ORDER_SECONDS):
                with translated():
                    answer: OrderAnswer = await accepted.result()
                return answer
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            # Taken, so it is carried out or refused without us.
            return OrderAnswer(
                verdict=Verdict.PENDING, state=agent.state, detail="its runtime has not answered yet; its events tell"
            )
        except WorkflowUpdateFailedError:
            # The run completed before it took the order.
            return over
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return over
            raise

    async def maintain(self, maintenance_id: str, order: MaintenanceOrder) -> int | None:
        return await maintenance.begin(self._client, maintenance_id, order)

    # ---- reported by channels and runtimes --------------------------------------------------------------------------

    async def ready(self, agent_id: str, attempt: int, workflow_id: str) -> bool:
        return await self._signal(workflow_id, "ready", ReadyReport(agent_id=agent_id, attempt=attempt))

    async def failed(self, workflow_id: str, report: FailureReport) -> bool:
        return await self._signal(workflow_id, "failed", report)

    # ---- the port of the activities ---------------------------------------------------------------------------------

    async def admit(self, workflow_id: str, agent_id: str, attempt: int) -> bool:
        return await self._signal(workflow_id, "admitted", Grant(agent_id=agent_id, attempt=attempt))

    async def wake_pool(self, pool: str) -> bool:
        """Have a pool look at its queue, starting its workflow when there is none."""
        with translated():
            await self._client.start_workflow(
                PoolQueue.run,
                PoolQueueInput(pool=pool, tick_seconds=self._tick_seconds, history_limit=self._history_limit),
                id=pool_workflow_id(pool),
                task_queue=CONTROL_QUEUE,
                task_timeout=TASK_TIMEOUT,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="capacity_changed",
                static_summary=f"queue of pool {pool}"[:190],
                rpc_timeout=_SIGNAL_TIMEOUT,
            )
        return True

    async def order_stop(self, workflow_id: str, order: StopOrder) -> bool:
        return await self._signal(workflow_id, "stop", order)

    async def owners(self) -> dict[str, str | None]:
        with translated():
            return {
                run.id: run.typed_search_attributes.get(AGENT_ID)
                async for run in self._client.list_workflows(
                    "WorkflowType='AgentWorkflow' AND ExecutionStatus='Running'",
                    page_size=500,
                    rpc_timeout=_SIGNAL_TIMEOUT,
                )
            }

    async def owner(self, workflow_id: str) -> Owner | None:
        try:
            with translated():
                run = await self._handle(workflow_id).describe(rpc_timeout=_SIGNAL_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        if run.status is WorkflowExecutionStatus.CONTINUED_AS_NEW:
            # Described in the very moment it was handed on: somebody owns it, who is told by the next look.
            return Owner(agent_id=None, deciding=True)
        if run.status is not WorkflowExecutionStatus.RUNNING:
            return None
        return Owner(
            agent_id=run.typed_search_attributes.get(AGENT_ID),
            deciding=run.raw_description.HasField("pending_workflow_task"),
            state=run.typed_search_attributes.get(AGENT_STATE),
            run_id=run.run_id,
            started_at=run.start_time,
        )

    async def end_run(self, workflow_id: str, run_id: str, reason: str) -> bool:
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        return await taken(handle.terminate(reason=reason, rpc_timeout=_SIGNAL_TIMEOUT))

    # ---- below ------------------------------------------------------------------------------------------------------

    def _handle(self, workflow_id: str) -> WorkflowHandle[AgentWorkflow, None]:
        return self._client.get_workflow_handle_for(AgentWorkflow.run, workflow_id)

    async def _signal(self, workflow_id: str, name: str, payload: object) -> bool:
        return await taken(self._handle(workflow_id).signal(name, payload, rpc_timeout=_SIGNAL_TIMEOUT))


async def _answered(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """The answer to an update, within the time for it, however many calls that takes. Raises `Unavailable`.

    The server drops the updates of a workflow task that fails, and one fails as a matter of course: when a signal comes
    while a run is ending. What the update did by then stands (a row, say), so it is asked again, with the same words.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                try:
                    with translated():
                        return await ask()
                except RPCError as error:
                    if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                        raise
                    log.info("update.dropped", why=error.message)
                await asyncio.sleep(_AGAIN_SECONDS)
    except (WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError) as silent:
        raise Unavailable("no worker has answered yet", code="worker_silent") from silent


def _update_id(request: StartRequest) -> str:
    """The same key is the same update; without a key every call is its own."""
    if request.key is None:
        return request.agent_id
    return hashlib.sha256(f"{request.key}\n{request.body_hash}".encode()).hexdigest()


async def _consume(operation: WithStartWorkflowOperation[AgentWorkflow, None]) -> None:
    """Take the start's own outcome, or asyncio complains of a failure that nobody looked at."""
    future = asyncio.ensure_future(operation.workflow_handle())
    done, _ = await asyncio.wait({future}, timeout=0.01)
    if not done:
        future.cancel()
        return
    error = future.exception()
    if isinstance(error, RPCError) and not is_away(error):
        log.warning("start.refused", status=error.status.name)
