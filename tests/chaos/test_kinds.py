"""Each way in which an agent fails, made for real: what its user is told, and how long until it is usable again."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from k8s.cluster.cluster import Cluster
from tests.chaos.failures import Failure, Failures
from tests.fixtures.cluster import Kubectl
from tests.fixtures.kubernetes import Land
from tests.fixtures.plain import NO_TLS
from tests.fixtures.stack import Person, eventually
from tests.fixtures.town import Town, agent_process, browser_process, town_here

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
# A pod that stays on a node which is silent is given up after the cluster's own 40 s and ours.
PATIENCE = 300

# Takes the town, and the id of the agent that is to fail.
Blow = Callable[[Town, str], None]


def _kill_agent(_: Town, agent_id: str) -> None:
    agent_process(agent_id).kill()


def _freeze_agent(_: Town, agent_id: str) -> None:
    agent_process(agent_id).send_signal(signal.SIGSTOP)


def _freeze_browser(_: Town, agent_id: str) -> None:
    browser_process(agent_id).send_signal(signal.SIGSTOP)


def _kill_host(town: Town, _: str) -> None:
    town.stack.kill("host")


def _delete_pod(town: Town, _: str) -> None:
    town.on_cluster("delete", "pods", "-l", "app=agent", "--wait=false")


def _cut_network(_: Town, agent_id: str) -> None:
    """Take the pod's own network interface down: it can neither say nor hear anything."""
    inside = ["nsenter", "--target", str(agent_process(agent_id).pid), "--net"]
    subprocess.run([*inside, "ip", "link", "set", "eth0", "down"], check=True)


ANYWHERE: dict[str, tuple[Blow, set[str]]] = {
    "agent killed": (_kill_agent, {"crash"}),
    "browser frozen": (_freeze_browser, {"health_check_failed"}),
    # On a cluster the kubelet asks it; here its silence is heard.
    "agent frozen": (_freeze_agent, {"health_check_failed", "channel_lost"}),
}
HERE = ANYWHERE | {"host killed": (_kill_host, {"host_lost"})}
PODS = ANYWHERE | {
    "pod deleted": (_delete_pod, {"runtime_gone", "exited"}),
    "network cut": (_cut_network, {"health_check_failed"}),
}


@pytest_asyncio.fixture(scope="module")
async def whole_here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    async with town_here(tmp_path_factory.mktemp("kinds")) as town:
        yield town


@pytest_asyncio.fixture
async def here(whole_here: Town) -> AsyncIterator[Town]:
    yield whole_here
    await _ended(whole_here)


@pytest_asyncio.fixture
async def pods(town_of_pods: Town) -> AsyncIterator[Town]:
    yield town_of_pods
    await _ended(town_of_pods)


async def _ended(town: Town) -> None:
    """Also those that a failed test left."""
    for agent in (await town.ann.ask("GET", "/api/agents?limit=200")).json()["items"]:
        if agent["state"] not in ("terminated", "failed", "cancelled"):
            await town.ended(agent["agentId"])


@pytest.mark.needs("agent", "novnc")
@pytest.mark.parametrize("kind", HERE)
async def test_agent_on_this_machine_goes_on_after(here: Town, failures: Failures, kind: str) -> None:
    blow, reasons = HERE[kind]
    await here.ended(await _goes_on(here, failures, "process", kind, blow, reasons))


@pytest.mark.needs("cluster", "images")
@pytest.mark.parametrize("kind", PODS)
async def test_agent_in_a_pod_goes_on_after(pods: Town, failures: Failures, kind: str) -> None:
    blow, reasons = PODS[kind]
    await pods.ended(await _goes_on(pods, failures, "pod", kind, blow, reasons))


@pytest.mark.needs("cluster", "images")
async def test_agent_in_a_pod_goes_on_after_its_nodes_kubelet_stopped(
    pods: Town, cluster: Cluster, failures: Failures
) -> None:
    stopped: list[str] = []

    def stop(town: Town, _: str) -> None:
        (pod,) = json.loads(town.on_cluster("get", "pods", "-l", "app=agent", "-o", "json"))["items"]
        stopped.append(pod["spec"]["nodeName"])
        cluster.stop_kubelet(stopped[0])

    try:
        agent_id = await _goes_on(pods, failures, "pod", "kubelet stopped", stop, {"host_lost"})
    finally:
        for node in stopped:
            cluster.start_kubelet(node)
    Kubectl(cluster)("wait", "node", stopped[0], "--for=condition=Ready", f"--timeout={PATIENCE}s")
    await pods.ended(agent_id)


@pytest.mark.needs("agent", "novnc")
async def test_agent_on_this_machine_goes_on_with_another_browser_after_browser_killed(
    here: Town, failures: Failures
) -> None:
    await _gets_another_browser(here, failures, "process")


@pytest.mark.needs("cluster", "images")
async def test_agent_in_a_pod_goes_on_with_another_browser_after_browser_killed(pods: Town, failures: Failures) -> None:
    await _gets_another_browser(pods, failures, "pod")


@pytest.mark.needs("agent", "novnc", "memory_cgroup")
async def test_user_of_a_page_on_this_machine_that_took_all_memory_gets_another(here: Town, failures: Failures) -> None:
    await _gets_another_page(here, failures, "process")


@pytest.mark.needs("cluster", "images")
async def test_user_of_a_page_in_a_pod_that_took_all_memory_gets_another(pods: Town, failures: Failures) -> None:
    await _gets_another_page(pods, failures, "pod")


@pytest.mark.needs("agent", "novnc", "memory_cgroup")
async def test_agent_on_this_machine_with_too_little_memory_is_told_to_have_failed_of_it(
    tmp_path: Path, failures: Failures
) -> None:
    async with town_here(tmp_path, {"resources": {"memory_mib": 64, "memory_limit_mib": 96}}) as town:
        agent_id = await town.ann.start("shop")
        await _fails_for_memory(town.ann, agent_id, failures, "process")


@pytest.mark.needs("cluster")
async def test_agent_in_a_pod_that_takes_too_much_memory_is_told_to_have_failed_of_it(
    land: Land, tmp_path: Path, failures: Failures
) -> None:
    async with land.stack(tmp_path, land.template(environment={"TINY_EAT_MIB": "200"})) as stack:
        ann = await stack.user("ann", "shop")
        await _fails_for_memory(ann, await ann.start("shop"), failures, "pod")


async def _fails_for_memory(ann: Person, agent_id: str, failures: Failures, where: str) -> None:
    began = time.monotonic()
    told = await _first(ann, agent_id, "agent.restarting")
    until_told = time.monotonic() - began
    # As often as it is begun anew, it is the same again.
    failed = await ann.until(agent_id, "failed", patience=PATIENCE)
    failures.add(Failure(where, "out of memory, whole", failed["reason"], told["detail"]["detail"], until_told, None))
    assert failed["reason"] == "out_of_memory"
    assert failed["restartCount"] == 3


async def _gets_another_page(town: Town, failures: Failures, where: str) -> None:
    agent_id = await town.started(f"{where} hungry")
    began = time.monotonic()
    order = {"command": "navigate", "parameters": {"url": town.hungry}, "timeoutSeconds": 60}
    headers = {"Authorization": f"Bearer {town.ann.token}"}
    async with httpx2.AsyncClient(timeout=70, verify=NO_TLS, headers=headers) as http:
        answer = (await http.post(f"{town.stack.url}/api/agents/{agent_id}/execute", json=order)).json()
    until_told = time.monotonic() - began
    assert await town.ann.visit(agent_id, town.shop.url) >= 1
    again = time.monotonic() - began
    failures.add(Failure(where, "out of memory, page", answer["code"], answer["detail"], until_told, again))
    assert answer["code"] == "page_oom"
    # Nothing but the page was lost.
    assert (await town.ann.kinds(agent_id)).count("restarting") == 0
    await town.ended(agent_id)


async def _gets_another_browser(town: Town, failures: Failures, where: str) -> None:
    agent_id, visits = await _visited(town, f"{where} browser killed")
    struck = time.monotonic()
    await asyncio.to_thread(browser_process(agent_id).kill)
    told = await _first(town.ann, agent_id, "browser.reopened")
    until_told = time.monotonic() - struck
    assert await town.ann.visit(agent_id, town.shop.url) == visits + 1
    again = time.monotonic() - struck
    failures.add(Failure(where, "browser killed", told["reason"], told["detail"]["detail"], until_told, again))
    assert told["reason"] == "crash"
    # Nothing but the browser was lost.
    agent = await town.ann.agent(agent_id)
    assert (agent["state"], agent["restartCount"]) == ("running", 0)
    kinds = await town.ann.kinds(agent_id)
    assert (kinds.count("ready"), kinds.count("restarting")) == (1, 0)
    await town.ended(agent_id)


async def _visited(town: Town, key: str) -> tuple[str, int]:
    """A usable agent whose profile an earlier one saved, and how often that one's browser was in the shop."""
    before = await town.started(f"{key}, before")
    visits = await town.ann.visit(before, town.shop.url)
    await town.ended(before)
    return await town.started(key), visits


async def _first(ann: Person, agent_id: str, kind: str) -> dict[str, Any]:
    """The first event of that kind, when it is there."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = [event for event in await ann.events(agent_id) if event["kind"] == kind]
        return bool(found)

    await eventually(there, f"{kind} to be told", PATIENCE, every=0.05)
    return found[0]


async def _goes_on(town: Town, failures: Failures, where: str, kind: str, blow: Blow, reasons: set[str]) -> str:
    """Have an agent fail, and see it through until it is used again; its id."""
    agent_id, visits = await _visited(town, f"{where} {kind}")
    if town.kubectl is not None:
        # It is usable before its probes know of it, and the kubelet is patient with what it takes to be starting still.
        pod = f"app=agent,agentId={agent_id}"
        words = ("wait", "pods", "-l", pod, "--for=condition=Ready", "--timeout=60s")
        await asyncio.to_thread(town.on_cluster, *words)
    struck = time.monotonic()
    await asyncio.to_thread(blow, town, agent_id)
    told = await _first(town.ann, agent_id, "agent.restarting")
    until_told = time.monotonic() - struck

    await town.ready_again(agent_id)
    detail = told["detail"]["detail"]
    failures.add(Failure(where, kind, told["reason"], detail, until_told, time.monotonic() - struck))
    assert told["reason"] in reasons
    assert (await town.ann.kinds(agent_id)).count("restarting") == 1
    # What was saved before is there still.
    assert await town.ann.visit(agent_id, town.shop.url) == visits + 1
    return agent_id
