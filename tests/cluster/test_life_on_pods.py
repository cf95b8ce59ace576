"""A whole life on real pods: asked for, used, watched, killed, stopped and started again, as on this machine."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from core.dev.demo.model import ScriptedModel, order_tea
from core.dev.demo.shop import Shop
from k8s.cluster.cluster import Cluster
from k8s.images.store import AGENT
from k8s.images.workshop import Built
from tests.capabilities import chromium_path
from tests.fixtures import limits
from tests.fixtures.cluster import Kubectl
from tests.fixtures.images import load
from tests.fixtures.stack import LocalStack, Person, eventually, local_stack
from tests.fixtures.web import PICTURE

pytestmark = [pytest.mark.needs("cluster", "images", "chromium"), pytest.mark.timeout(600)]
TASK = "Order white tea for Ann"
NAMESPACE = "life-on-pods"
# A pod's first start on a cold page cache, with everything else of the test beside it on two cores.
READY_SECONDS = "240"


@dataclass
class Town:
    stack: LocalStack
    shop: Shop
    ann: Person
    kubectl: Kubectl


@pytest_asyncio.fixture(scope="module")
async def town(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, images: Mapping[str, Built]
) -> AsyncIterator[Town]:
    """A stack whose agents are pods; their browsers may reach one shop, and their tasks a scripted model."""
    load([images[AGENT]], cluster.containerd_sockets)
    kubectl = Kubectl(cluster, NAMESPACE)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    host = cluster.host_address
    with Shop(host=host) as shop, ScriptedModel({TASK: order_tea(shop.url, "Ann", "ann@example.test")}, host=host) as m:
        template = {
            "browser": {"allowed_hosts": [urlsplit(shop.url).netloc]},
            "kubernetes": {"profile": {"size": "100Mi"}},
        }
        folder = tmp_path_factory.mktemp("pods")
        config = folder / "berth.yaml"
        config.write_text(json.dumps({"templates": {"default": template}}))
        async with local_stack(
            folder / "data",
            "kubernetes",
            CONFIG=str(config),
            KUBERNETES__KUBECONFIG=str(cluster.kubeconfig),
            KUBERNETES__NAMESPACE=NAMESPACE,
            API__AGENT_HOST=host,
            TIMINGS__READY_DEADLINE_SECONDS=READY_SECONDS,
            TIMINGS__REAP_SECONDS="2",
            TIMINGS__GRACE_SECONDS="1",
            LLM__BASE_URL=m.base_url,
        ) as stack:
            yield Town(stack, shop, await stack.user("ann", "shop", "desk", tier="premium"), kubectl)
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


async def _started(town: Town, key: str) -> str:
    agent_id = await town.ann.start("shop", key=key)
    reached = await town.ann.until(agent_id, "running", "failed", patience=int(READY_SECONDS))
    assert reached["state"] == "running", reached
    return agent_id


async def _ended(town: Town, agent_id: str) -> None:
    await town.ann.stop(agent_id)
    await town.ann.until(agent_id, "terminated")
    left = town.kubectl("get", "pods,services,secrets", "-l", "app=agent", "-o", "name")
    assert left == "", left


async def test_an_agent_in_a_hardened_pod_does_its_task_and_is_seen_and_read(town: Town) -> None:
    agent_id = await _started(town, "task")
    result = await town.ann.do(agent_id, "run_task", task=TASK)
    assert "placed for Ann" in json.dumps(result)
    assert len(town.shop.book.orders) == 1
    for command, magic in (("screenshot", b"\x89PNG"), ("pdf", b"%PDF")):
        artefact = await town.ann.do(agent_id, command)
        assert (await town.ann.ask("GET", artefact["url"])).content.startswith(magic)
    log = await town.ann.ask("GET", f"/api/agents/{agent_id}/logs")
    assert "attempt 1" in log.text

    ticket = (await town.ann.ask("POST", f"/api/agents/{agent_id}/desktop", json={"mode": "view"})).json()["url"]
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(ticket)
        await page.wait_for_function(PICTURE, timeout=30_000)
        await browser.close()

    (pod,) = json.loads(town.kubectl("get", "pods", "-l", "app=agent", "-o", "json"))["items"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    await _ended(town, agent_id)
    assert (await town.ann.kinds(agent_id))[-2:] == ["draining", "terminated"]


async def test_cookies_are_kept_on_a_claim_over_a_stop_and_a_deleted_pod(town: Town) -> None:
    first = await _started(town, "first")
    assert await town.ann.visit(first, town.shop.url) == 1
    await _ended(town, first)

    second = await _started(town, "second")
    assert await town.ann.visit(second, town.shop.url) == 2
    # Somebody with kubectl: the same agent comes back, on its profile, as the next attempt.
    town.kubectl("delete", "pods", "-l", "app=agent", "--wait=false")

    async def again() -> bool:
        return (await town.ann.kinds(second)).count("ready") == 2

    await eventually(again, "the agent to be ready again", patience=int(READY_SECONDS))
    assert await town.ann.visit(second, town.shop.url) >= 2
    await _ended(town, second)


async def test_agent_is_resized_under_its_user_and_moves_to_the_other_node_with_cookies_and_size(town: Town) -> None:
    admin = await town.stack.user("root", admin=True)
    agent_id = await _started(town, "moved")
    visits = await town.ann.visit(agent_id, town.shop.url)
    page = await town.ann.do(agent_id, "state")
    before = _pod(town)

    resized = await admin.ask("POST", f"/api/admin/agents/{agent_id}/resize", json={"memory": "1536Mi"}, timeout=60)
    assert resized.status_code == 202, resized.text
    after = _pod(town)
    assert limits.memory_mib(_pids(after)[0]) == 1536
    assert (_pids(after)[0], _status(after)["restartCount"]) == (_pids(before)[0], 0)
    assert await town.ann.do(agent_id, "state") == page

    ordered = await admin.ask("POST", f"/api/admin/agents/{agent_id}/migrate", timeout=60)
    assert ordered.status_code == 202, ordered.text

    async def again() -> bool:
        return (await town.ann.kinds(agent_id)).count("ready") == 2

    await eventually(again, "the agent to be ready on the other node", patience=int(READY_SECONDS))
    moved = _pod(town)
    assert {before["spec"]["nodeName"], moved["spec"]["nodeName"]} == {"node-1", "node-2"}
    assert limits.memory_mib(_pids(moved)[0]) == 1536
    assert await town.ann.visit(agent_id, town.shop.url) == visits + 1
    story = (await town.ann.kinds(agent_id))[:]
    assert [kind for kind in story if kind != "command.executed"] == [
        "requested", "queued", "admitted", "starting", "ready", "resized", "warning", "restarting", "starting", "ready",
    ]  # fmt: skip
    await _ended(town, agent_id)


def _pod(town: Town) -> dict[str, Any]:
    (pod,) = json.loads(town.kubectl("get", "pods", "-l", "app=agent", "-o", "json"))["items"]
    found: dict[str, Any] = pod
    return found


def _status(pod: dict[str, Any]) -> dict[str, Any]:
    (status,) = pod["status"]["containerStatuses"]
    found: dict[str, Any] = status
    return found


def _pids(pod: dict[str, Any]) -> list[int]:
    return limits.pids_in(_status(pod)["containerID"].removeprefix("containerd://"))
