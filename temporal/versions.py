"""Releases of the workers as Temporal knows them: which is current, what still runs on which, and how that moves on."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio.api.deployment.v1 import WorkerDeploymentInfo
from temporalio.api.enums.v1 import RoutingConfigUpdateState, WorkerDeploymentVersionStatus
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client, WorkflowExecution
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import WorkerDeploymentConfig

from core.domain.value import Value
from core.errors import Conflict, NotFound
from core.settings import Settings, Versioning
from temporal.client import taken, translated

_TIMEOUT = timedelta(seconds=15)
_AT_ONCE = 32
# For up to half a minute; a server that takes longer, or says nothing of it, has the release as current all the same.
_LOOK_EVERY = 0.1
_MOST_LOOKS = 300
_BEHAVIOR = {
    Versioning.PINNED: VersioningBehavior.PINNED,
    Versioning.AUTO_UPGRADE: VersioningBehavior.AUTO_UPGRADE,
}
# Those that never end by themselves, or not soon; a look of the reaper does.
_MOVABLE = ("AgentWorkflow", "PoolQueue", "Notices", "ScheduledStart")


class Release(Value):
    """A version of the workers. `runs` are those held to it; `status` is Temporal's word."""

    build_id: str
    status: str
    runs: int

    @property
    def current(self) -> bool:
        return self.status == "current"


def deployment_of(settings: Settings) -> WorkerDeploymentConfig | None:
    """What a worker says of itself; None: it has no version, and takes every life on."""
    worker = settings.worker
    if worker.build_id is None:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(worker.deployment, worker.build_id),
        use_worker_versioning=True,
        default_versioning_behavior=_BEHAVIOR[worker.versioning],
    )


class Releases:
    """Those of one deployment. Every call is bounded. Raises `Unavailable` when Temporal does not answer."""

    def __init__(self, client: Client, deployment: str) -> None:
        self._client = client
        self._deployment = deployment

    async def all(self) -> list[Release]:
        """Newest first; empty before the first worker with a version came."""
        try:
            with translated():
                told = await self._described()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return []
            raise
        found = sorted(
            told.version_summaries,
            key=lambda each: each.create_time.ToNanoseconds(),
            reverse=True,
        )
        prefix = "WORKER_DEPLOYMENT_VERSION_STATUS_"
        return [
            Release(
                build_id=each.deployment_version.build_id,
                status=WorkerDeploymentVersionStatus.Name(each.status).removeprefix(prefix).lower(),
                runs=await self._count(each.deployment_version.build_id),
            )
            for each in found
        ]

    async def _described(self) -> WorkerDeploymentInfo:
        ask = DescribeWorkerDeploymentRequest(namespace=self._client.namespace, deployment_name=self._deployment)
        told = await self._client.workflow_service.describe_worker_deployment(ask, timeout=_TIMEOUT)
        return told.worker_deployment_info

    async def _count(self, build_id: str) -> int:
        with translated():
            return (await self._client.count_workflows(self._held_to(build_id), rpc_timeout=_TIMEOUT)).count

    def _held_to(self, build_id: str) -> str:
        return f"TemporalWorkerDeploymentVersion='{self._deployment}:{build_id}' AND ExecutionStatus='Running'"

    async def use(self, build_id: str) -> None:
        """Make a release the current one: when this returns, what begins, or has something to do, goes by it.

        Raises `NotFound` while no worker of it has come, `Conflict` when it does not serve all that is served now.
        """
        ask = SetWorkerDeploymentCurrentVersionRequest(
            namespace=self._client.namespace,
            deployment_name=self._deployment,
            build_id=build_id,
            identity="berth",
        )
        try:
            with translated():
                await self._client.workflow_service.set_worker_deployment_current_version(ask, timeout=_TIMEOUT)
                await self._in_force()
        except RPCError as error:
            match error.status:
                case RPCStatusCode.NOT_FOUND:
                    raise NotFound(f"no worker of release {build_id} is there yet", code="release_unknown") from error
                case RPCStatusCode.FAILED_PRECONDITION:
                    raise Conflict(error.message, code="release_incomplete") from error
                case _:
                    raise

    async def _in_force(self) -> None:
        """Return when every queue knows: a life that has something to do before that stays where it is."""
        for _ in range(_MOST_LOOKS):
            state = (await self._described()).routing_config_update_state
            if state != RoutingConfigUpdateState.ROUTING_CONFIG_UPDATE_STATE_IN_PROGRESS:
                return
            await asyncio.sleep(_LOOK_EVERY)

    async def move(self, build_id: str) -> int:
        """Tell every run that is held to a release to go on in a new one; how many were told.

        Each does so as soon as no step of it is under way. One that ended meanwhile needed no telling.
        """
        told = 0
        kinds = ",".join(f"'{kind}'" for kind in _MOVABLE)
        async for batch in self._batches(f"WorkflowType IN ({kinds}) AND {self._held_to(build_id)}"):
            told += sum(await asyncio.gather(*(self._tell(run) for run in batch)))
        return told

    async def _batches(self, query: str) -> AsyncIterator[list[WorkflowExecution]]:
        batch: list[WorkflowExecution] = []
        with translated():
            async for run in self._client.list_workflows(query, page_size=500, rpc_timeout=_TIMEOUT):
                batch.append(run)
                if len(batch) == _AT_ONCE:
                    yield batch
                    batch = []
        if batch:
            yield batch

    async def _tell(self, run: WorkflowExecution) -> bool:
        handle = self._client.get_workflow_handle(run.id, run_id=run.run_id)
        return await taken(handle.signal("hand_on", rpc_timeout=_TIMEOUT))
