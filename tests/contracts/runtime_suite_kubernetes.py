"""The runtime `kubernetes` for the contract suite: tiny agents, as pods of a real cluster."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from core.domain.recovery import FailureKind
from core.runtime.base import AgentSpec
from tests.contracts.runtime_suite import Rig
from tests.fixtures.kubernetes import Land


@asynccontextmanager
async def kubernetes_rig(land: Land) -> AsyncIterator[Rig]:
    def tiny(**environment: str) -> Any:
        def change(spec: AgentSpec) -> AgentSpec:
            return spec.model_copy(update={"template": land.template(environment=environment)})

        return change

    def running(spec: AgentSpec) -> list[str]:
        """Pods of the agent in which something runs."""
        found = json.loads(land.kubectl("get", "pods", f"--selector=agentId={spec.agent_id}", "-o", "json"))["items"]
        return [pod["metadata"]["name"] for pod in found if not _ended(pod)]

    def limit(spec: AgentSpec) -> int | None:
        (pod,) = json.loads(land.kubectl("get", "pods", f"--selector=agentId={spec.agent_id}", "-o", "json"))["items"]
        (status,) = pod["status"]["containerStatuses"]
        return int(status["resources"]["limits"]["memory"].removesuffix("Mi"))

    try:
        yield Rig(
            runtime=land.open(),
            template=land.template(),
            failing=tiny(TINY_EXIT_AFTER="2s", TINY_EXIT_CODE="75"),
            fail=lambda handle: None,
            fails_with=FailureKind.CRASH,
            remains=running,
            stubborn=tiny(TINY_DEAF="1"),
            deafen=lambda handle: None,
            has_address=True,
            memory_limit=limit,
            has_others=False,
            shortens_grace=False,
        )
    finally:
        await land.close()


def _ended(pod: dict[str, Any]) -> bool:
    return any("terminated" in each["state"] for each in pod["status"].get("containerStatuses", []))
