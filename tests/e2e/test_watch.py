"""Lives on Kubernetes as the part `watch` tells them: over a real API server, where the test plays the machines."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.pods import condition, ended, running, waiting
from tests.fixtures.apiserver import RealServer
from tests.fixtures.kube import LEASES, NODES, PODS, RealKube, real_kube
from tests.fixtures.stack import LocalStack, eventually, local_stack

pytestmark = [pytest.mark.needs("cluster"), pytest.mark.timeout(240)]


@pytest_asyncio.fixture
async def land(real_server: RealServer) -> AsyncIterator[RealKube]:
    """A cluster with one machine that says it is ready and has room."""
    async with real_kube(real_server) as kube:
        room = {"cpu": "8", "memory": "16Gi", "pods": "100"}
        await kube.create(NODES, {"metadata": {"name": "node-1"}})
        await kube.set_status(
            NODES, "node-1", {"conditions": [condition("Ready", "True")], "capacity": room, "allocatable": room}
        )
        made = await kube.ask("GET", f"{NODES}/node-1")
        await kube.ask("PUT", f"{NODES}/node-1", {**made, "spec": {}})  # without the taint of a node that is new
        yield kube


@pytest_asyncio.fixture
async def stack(land: RealKube, tmp_path: Path) -> AsyncIterator[LocalStack]:
    config = tmp_path / "berth.yaml"
    config.write_text(json.dumps({"templates": {"default": {"kubernetes": {"ready_by": "probe"}}}}))
    settings = {
        "CONFIG": str(config),
        "KUBERNETES__KUBECONFIG": str(land.settings(proxied=False).kubeconfig),
        "KUBERNETES__NAMESPACE": "agents",
        "TIMINGS__RESTART_BACKOFF_SECONDS": "0.1",
    }
    async with local_stack(tmp_path / "data", "kubernetes", **settings) as stack:
        yield stack


async def pod_of(land: RealKube, agent_id: str, attempt: int = 1) -> dict[str, Any]:
    """The pod of an attempt, once it is there."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        for pod in (await land.ask("GET", PODS))["items"]:
            marks = pod["metadata"]["annotations"]
            if (marks["berth.dev/agent-id"], marks["berth.dev/attempt"]) == (agent_id, str(attempt)):
                found.append(pod)
        return bool(found)

    await eventually(there, f"the pod of attempt {attempt}")
    return found[0]


async def test_life_goes_on_by_what_the_watch_tells_also_when_it_is_killed(stack: LocalStack, land: RealKube) -> None:
    assert set(stack.about["pids"]) == {"postgres", "temporal", "worker", "api", "watch"}
    ann = await stack.user("ann", "shop")
    agent_id = await ann.start("shop")
    pod = (await pod_of(land, agent_id))["metadata"]["name"]
    await land.set_status(PODS, pod, running(ready=True))
    await ann.until(agent_id, "running")

    stack.kill("watch")
    await land.set_status(PODS, pod, ended(76))
    again = (await pod_of(land, agent_id, attempt=2))["metadata"]["name"]
    await land.set_status(PODS, again, running(ready=True))
    agent = await ann.until(agent_id, "running")
    assert agent["restartCount"] == 1
    restarts = [event for event in await ann.events(agent_id) if event["kind"] == "agent.restarting"]
    assert [event["reason"] for event in restarts] == ["out_of_memory"]

    await ann.stop(agent_id)
    await ann.until(agent_id, "terminated")
    assert (await land.ask("GET", PODS))["items"] == []


async def test_user_is_told_at_once_why_an_agent_cannot_start(stack: LocalStack, land: RealKube) -> None:
    ann = await stack.user("ann", "shop")
    agent_id = await ann.start("shop")
    pod = await pod_of(land, agent_id)
    image = pod["spec"]["containers"][0]["image"]
    await land.set_status(
        PODS, pod["metadata"]["name"], waiting("ErrImagePull", f"failed to resolve {image}: not found", image)
    )
    failed = await ann.until(agent_id, "failed")
    assert failed["reason"] == "image_pull"
    last = (await ann.events(agent_id))[-1]
    assert f"the image {image} does not exist" in last["detail"]["detail"]


async def test_watch_that_leaves_in_order_gives_its_lease_back(stack: LocalStack, land: RealKube) -> None:
    async def held() -> bool:
        leases = (await land.ask("GET", LEASES))["items"]
        return [bool(lease["spec"]["holderIdentity"]) for lease in leases] == [True]

    await eventually(held, "the lease to be held")
    stack.process.terminate()
    await stack.process.wait()
    assert not await held()
