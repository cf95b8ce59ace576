"""What an agent saves when Berth stops it: the open task, downloads, and what it used, after its cookies."""

import asyncio
import io
import json
import shutil
import signal
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from core.dev.demo.model import ScriptedModel, say
from core.dev.demo.shop import Shop
from tests.agent import running
from tests.agent.backend import Backend, serve
from tests.agent.running import TOKEN, Agent, eventually

pytestmark = pytest.mark.needs("agent")
_KEY = "key-of-the-model"
PRICES = "Green tea,"


@pytest.fixture(scope="module")
def model(shop: Shop) -> Iterator[ScriptedModel]:
    steps = [say({"navigate": {"url": f"{shop.url}/order"}}), *[say({"wait": {"seconds": 3}}) for _ in range(100)]]
    with ScriptedModel({"wait for ever": steps}, api_key=_KEY) as model:
        yield model


def settings(model: ScriptedModel) -> dict[str, Any]:
    return {"LLM_BASE_URL": model.base_url, "LLM_MODEL": "scripted", "LLM_API_KEY": _KEY}


async def download(agent: Agent, shop: Shop) -> None:
    """Have the shop's price list in the agent's downloads."""
    await agent.execute("navigate", url=shop.url)
    await agent.execute("click", selector="#prices")
    path = agent.home / "work" / "downloads" / "prices.csv"
    # Its name is taken, by an empty file, while it is still on its way.
    await eventually(lambda: asyncio.to_thread(lambda: path.exists() and path.stat().st_size), bool)


def saved(backend: Backend) -> zipfile.ZipFile:
    content_type, body = backend.artefacts["saved 1"]
    assert content_type == "application/zip"
    return zipfile.ZipFile(io.BytesIO(body))


async def test_ordered_stop_saves_the_open_task_and_what_was_downloaded(
    backend: Backend, shop: Shop, model: ScriptedModel
) -> None:
    async with running.started(backend, **settings(model)) as agent:
        await download(agent, shop)
        (agent.home / "work" / "downloads" / "planted").symlink_to("/etc/passwd")
        before = model.calls
        order = asyncio.create_task(backend.order("long", "run_task", 60, task="wait for ever", maxSteps=40))
        # Asked for its second step, it has done the first.
        await eventually(lambda: asyncio.sleep(0, model.calls), lambda calls: calls > before + 1, 40)
        assert await agent.stop() == 0
        assert (await order)["fault"] == "shutting_down"
        log = agent.tail()
    found = saved(backend)
    assert found.testzip() is None, log
    assert found.read("downloads/prices.csv").decode().startswith(PRICES)
    task = json.loads(found.read("task.json"))
    assert (task["commandId"], task["task"], task["maxSteps"]) == ("long", "wait for ever", 40)
    assert task["steps"][0]["actions"] == [{"navigate": {"url": f"{shop.url}/order", "new_tab": False}}]
    assert "Navigated" in json.dumps(task["steps"][0]["results"])
    assert task["beganAt"] < task["stoppedAt"]
    manifest = json.loads(found.read("manifest.json"))
    assert (manifest["agentId"], manifest["attempt"], manifest["reason"]) == ("ag-test", 1, "test")
    assert {"name": "downloads/planted", "bytes": None, "why": "not_a_file"} in manifest["leftOut"]
    assert (await backend.status("work_saved"))["detail"] == "art-saved 1"


async def test_nothing_to_save_is_nothing_stored(backend: Backend, shop: Shop) -> None:
    async with running.started(backend) as agent:
        await agent.execute("navigate", url=shop.url)
        assert await agent.stop() == 0
    assert backend.artefacts == {}


async def test_what_nobody_ordered_saves_nothing(backend: Backend, shop: Shop) -> None:
    async with running.started(backend) as agent:
        await download(agent, shop)
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.ended() == 143
    assert backend.artefacts == {}


async def test_store_that_fails_at_first_gets_the_work_all_the_same(backend: Backend, shop: Shop) -> None:
    async with running.started(backend) as agent:
        await download(agent, shop)
        backend.failing_puts = 5
        assert await agent.stop() == 0
    assert "downloads/prices.csv" in saved(backend).namelist()


async def test_store_that_never_answers_costs_neither_the_cookies_nor_more_than_the_time(shop: Shop) -> None:
    home = running.new_home()
    try:
        async with serve(TOKEN) as backend, running.started(backend, home) as agent:
            await download(agent, shop)
            backend.stalled_puts = asyncio.Event()
            async with asyncio.timeout(12):
                assert await agent.stop(8) == 0
            assert backend.stalled_puts.is_set()
            assert (await backend.status("work_not_saved"))["detail"] == "there was no time left"
        async with serve(TOKEN) as second, running.started(second, home) as agent:
            await agent.execute("navigate", url=shop.url)
            assert await agent.text("#visits") == "2"
    finally:
        shutil.rmtree(home)


async def test_an_agent_with_a_container_of_its_own_tells_what_it_used_to_its_last_moment(backend: Backend) -> None:
    async with running.started(backend, AGENT_OWN_NETWORK="1", AGENT_HEARTBEAT_SECONDS="3600") as agent:
        await backend.until(lambda: bool(backend.of("heartbeat")))
        assert await agent.stop() == 0
    first, last = (backend.of("heartbeat")[place]["health"] for place in (0, -1))
    assert (len(backend.of("heartbeat")), last["status"]) == (2, "stopping")
    assert last["cpuSeconds"] > first["cpuSeconds"] > 0
    assert last["peakMemoryBytes"] >= first["peakMemoryBytes"] > 0


async def test_an_agent_among_others_does_not_claim_what_all_of_them_used(backend: Backend) -> None:
    async with running.started(backend):
        await backend.until(lambda: bool(backend.of("heartbeat")))
    health = backend.of("heartbeat")[0]["health"]
    assert (health["cpuSeconds"], health["peakMemoryBytes"]) == (None, None)
