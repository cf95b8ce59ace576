"""A real browser agent through the whole of Berth: asked for, used, watched, killed, stopped, started again."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from tests.capabilities import chromium_path
from tests.fixtures.stack import eventually
from tests.fixtures.town import LONG_TASK, TASK, Town, browser_process, town_here
from tests.fixtures.web import PICTURE

pytestmark = [pytest.mark.needs("agent", "novnc"), pytest.mark.timeout(300)]

LONG = {"Idempotency-Key": "long"}


@pytest_asyncio.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with town_here(tmp_path) as town:
        yield town


async def test_an_agent_orders_tea_by_itself_and_shows_picture_and_pdf(town: Town) -> None:
    agent_id = await town.ann.start("shop")
    await town.ann.until(agent_id, "running")
    result = await town.ann.do(agent_id, "run_task", task=TASK)
    assert "placed for Ann" in json.dumps(result)
    assert len(town.shop.book.orders) == 1
    for command, magic in (("screenshot", b"\x89PNG"), ("pdf", b"%PDF")):
        artefact = await town.ann.do(agent_id, command)
        stored = await town.ann.ask("GET", artefact["url"])
        assert stored.content.startswith(magic)
        assert len(stored.content) == artefact["bytes"]
    log = await town.ann.ask("GET", f"/api/agents/{agent_id}/logs")
    assert log.status_code == 200
    assert log.text
    await town.ended(agent_id)


async def test_a_stopped_agents_user_gets_the_open_task_and_its_downloads(town: Town) -> None:
    agent_id = await town.ann.start("shop")
    await town.ann.until(agent_id, "running")
    await town.ann.do(agent_id, "navigate", url=town.shop.url)
    await town.ann.do(agent_id, "click", selector="#prices")
    path, body = f"/api/agents/{agent_id}", {"command": "run_task", "parameters": {"task": LONG_TASK}}
    asked = town.ann.ask("POST", f"{path}/execute", json={**body, "timeoutSeconds": 5}, headers=LONG)
    task = asyncio.create_task(asked)
    # Asked for its second step, it has done the first.
    await eventually(lambda: asyncio.sleep(0, town.model.calls > 1), "the task's second step")
    assert (await town.ann.agent(agent_id))["savedWork"] == []
    await town.ended(agent_id)
    await task
    assert (await town.ann.ask("GET", f"{path}/commands/long")).json()["fault"] == "shutting_down"

    (saved,) = (await town.ann.agent(agent_id))["savedWork"]
    assert saved["attempt"] == 1
    stored = await town.ann.ask("GET", saved["url"])
    found = zipfile.ZipFile(io.BytesIO(stored.content))
    assert len(stored.content) == saved["bytes"]
    assert found.read("downloads/prices.csv").startswith(b"Green tea,")
    open_task = json.loads(found.read("task.json"))
    assert (open_task["commandId"], open_task["task"]) == ("long", LONG_TASK)
    assert open_task["steps"][0]["actions"][0]["navigate"]["url"] == f"{town.shop.url}/order"
    bob = await town.stack.user("bob", "shop")
    assert (await bob.ask("GET", saved["url"])).status_code == 404

    last = (await town.ann.events(agent_id))[-1]
    assert last["kind"] == "agent.terminated"
    assert last["detail"]["savedWork"] == [saved]
    usage = last["detail"]["usage"]
    assert usage["tasks"] == 1
    assert min(usage[name] for name in ("seconds", "cpuSeconds", "peakMemoryBytes")) > 0


async def test_cookies_survive_stop_and_start_and_a_killed_host(town: Town) -> None:
    first = await town.ann.start("shop", key="first")
    await town.ann.until(first, "running")
    assert await town.ann.visit(first, town.shop.url) == 1
    await town.ended(first)

    second = await town.ann.start("shop", key="second")
    assert second != first
    await town.ann.until(second, "running")
    assert await town.ann.visit(second, town.shop.url) == 2

    # Its agents die with the host; the same agent comes back on its profile as the next attempt.
    town.stack.kill("host")

    await town.ready_again(second)
    # That the host died is not the agent's fault: none of its three restarts is spent.
    assert (await town.ann.agent(second))["restartCount"] == 0
    assert await town.ann.visit(second, town.shop.url) >= 2
    await town.ended(second)


@pytest.mark.chaos
async def test_a_failed_agents_user_starts_again_with_the_same_cookies(town: Town) -> None:
    first = await town.ann.start("shop", key="first")
    await town.ann.until(first, "running")
    assert await town.ann.visit(first, town.shop.url) == 1
    await town.ended(first)
    failed = await town.ann.start("shop", key="second")
    await town.ann.until(failed, "running")
    for_good = json.dumps({"agent_id": failed, "attempt": 1, "kind": "cannot_start"})
    await town.stack.temporal("workflow", "signal", "-w", "agent/ann/shop", "--name", "failed", "--input", for_good)
    await town.ann.until(failed, "failed")
    answer = await town.ann.ask("POST", f"/api/agents/{failed}/restart")
    assert answer.status_code == 201, answer.text
    again = answer.json()["agent"]["agentId"]
    assert again != failed
    await town.ann.until(again, "running")
    # What fails is not asked to save, so it is what the first one saved that counts.
    assert await town.ann.visit(again, town.shop.url) == 2
    await town.ended(again)


async def test_a_crashed_browser_is_replaced_in_the_same_attempt_and_its_user_told(town: Town) -> None:
    agent_id = await town.ann.start("shop")
    await town.ann.until(agent_id, "running")
    await town.ann.do(agent_id, "navigate", url=town.shop.url)
    browser_process(agent_id).kill()

    async def told() -> bool:
        return "browser.reopened" in await town.ann.kinds(agent_id)

    await eventually(told, "another browser to be told")
    assert (await town.ann.do(agent_id, "state"))["title"] == "Tea shop"
    kinds = await town.ann.kinds(agent_id)
    assert (kinds.count("ready"), kinds.count("restarting")) == (1, 0)
    assert (await town.ann.agent(agent_id))["restartCount"] == 0
    await town.ended(agent_id)


async def test_the_owner_sees_the_desktop_and_nobody_else_does(town: Town) -> None:
    agent_id = await town.ann.start("shop")
    await town.ann.until(agent_id, "running")
    await town.ann.do(agent_id, "navigate", url=town.shop.url)
    bob = await town.stack.user("bob", "shop")
    for path in ("desktop", "execute", "stop", "keep", "restart", "activity"):
        refused = await bob.ask("POST", f"/api/agents/{agent_id}/{path}", json={})
        assert refused.status_code in (404, 422), (path, refused.text)
    assert (await bob.ask("GET", f"/api/agents/{agent_id}/logs")).status_code == 404

    ticket = (await town.ann.ask("POST", f"/api/agents/{agent_id}/desktop", json={"mode": "view"})).json()["url"]
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(ticket)
        await page.wait_for_function(PICTURE, timeout=30_000)
        # A second window with the same ticket sees nothing, and is told why.
        other = await browser.new_page()
        await other.goto(ticket)
        await other.get_by_text("This link no longer works").wait_for(timeout=15_000)
        assert not await other.evaluate(PICTURE)
        await browser.close()
    await town.ended(agent_id)


async def test_the_browser_of_an_agent_reaches_nothing_of_this_machine_but_what_is_allowed(town: Town) -> None:
    agent_id = await town.ann.start("shop")
    await town.ann.until(agent_id, "running")
    about = town.stack.about
    for address in (about["api"], about["temporalUi"], "file:///etc/passwd", f"http://{about['temporal']}"):
        body = {"command": "navigate", "parameters": {"url": address}}
        answer = await town.ann.ask("POST", f"/api/agents/{agent_id}/execute", json=body)
        assert answer.status_code in (403, 422), (address, answer.text)
        assert answer.json()["code"] == "address_refused", address
    await town.ann.do(agent_id, "navigate", url=town.shop.url)
    await town.ended(agent_id)
