"""A whole life on real pods: asked for, used, watched, killed, stopped and started again, as on this machine."""

import json
from typing import Any

import pytest
from playwright.async_api import async_playwright

from tests.capabilities import chromium_path
from tests.fixtures import limits
from tests.fixtures.town import TASK, Town
from tests.fixtures.web import PICTURE

pytestmark = [pytest.mark.needs("cluster", "images", "chromium"), pytest.mark.timeout(600)]


@pytest.fixture
def town(town_of_pods: Town) -> Town:
    return town_of_pods


async def test_an_agent_in_a_hardened_pod_does_its_task_and_is_seen_and_read(town: Town) -> None:
    agent_id = await town.started("task")
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

    (pod,) = json.loads(town.on_cluster("get", "pods", "-l", "app=agent", "-o", "json"))["items"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    await town.ended(agent_id)
    assert (await town.ann.kinds(agent_id))[-2:] == ["draining", "terminated"]
    usage = (await town.ann.events(agent_id))[-1]["detail"]["usage"]
    assert usage["tasks"] == 1
    # By the agent's own last word: a cluster does not tell what a pod has used once it is gone.
    assert min(usage[name] for name in ("seconds", "cpuSeconds", "peakMemoryBytes")) > 0


async def test_cookies_are_kept_on_a_claim_over_a_stop_and_a_deleted_pod(town: Town) -> None:
    first = await town.started("first")
    assert await town.ann.visit(first, town.shop.url) == 1
    await town.ended(first)

    second = await town.started("second")
    assert await town.ann.visit(second, town.shop.url) == 2
    # Somebody with kubectl: the same agent comes back, on its profile, as the next attempt.
    town.on_cluster("delete", "pods", "-l", "app=agent", "--wait=false")

    await town.ready_again(second)
    assert await town.ann.visit(second, town.shop.url) >= 2
    await town.ended(second)


async def test_agent_is_resized_under_its_user_and_moves_to_the_other_node_with_cookies_and_size(town: Town) -> None:
    admin = await town.stack.user("root", admin=True)
    agent_id = await town.started("moved")
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

    await town.ready_again(agent_id)
    moved = _pod(town)
    assert {before["spec"]["nodeName"], moved["spec"]["nodeName"]} == {"node-1", "node-2"}
    assert limits.memory_mib(_pids(moved)[0]) == 1536
    assert await town.ann.visit(agent_id, town.shop.url) == visits + 1
    story = (await town.ann.kinds(agent_id))[:]
    assert [kind for kind in story if kind != "command.executed"] == [
        "requested", "queued", "admitted", "starting", "ready", "resized", "warning", "restarting", "starting", "ready",
    ]  # fmt: skip
    await town.ended(agent_id)


def _pod(town: Town) -> dict[str, Any]:
    (pod,) = json.loads(town.on_cluster("get", "pods", "-l", "app=agent", "-o", "json"))["items"]
    found: dict[str, Any] = pod
    return found


def _status(pod: dict[str, Any]) -> dict[str, Any]:
    (status,) = pod["status"]["containerStatuses"]
    found: dict[str, Any] = status
    return found


def _pids(pod: dict[str, Any]) -> list[int]:
    return limits.pids_in(_status(pod)["containerID"].removeprefix("containerd://"))
