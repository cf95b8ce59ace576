"""run_task: browser-use with a scripted model over HTTP, on the agent's own browser."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from core.dev.demo.model import ScriptedModel, Step, done, order_tea, say
from core.dev.demo.shop import Shop
from tests.agent import running
from tests.agent.backend import serve
from tests.agent.running import TOKEN, Agent

pytestmark = pytest.mark.needs("agent")
_KEY = "key-of-the-model"


@contextlib.asynccontextmanager
async def _with_a_model(shop: Shop) -> AsyncIterator[Agent]:
    forever: list[Step] = [say({"wait": {"seconds": 3}}) for _ in range(100)]
    scripts = {
        "order tea": order_tea(shop.url, "Grace Hopper", "grace@example.test"),
        "wait for ever": [say({"navigate": {"url": shop.url}}), *forever],
        "closed": [say({"navigate": {"url": "file:///etc/passwd"}}), done("looked")],
        "give up": [done("it cannot be done", success=False)],
        "speechless": [],
    }
    with ScriptedModel(scripts, api_key=_KEY) as model:
        model_settings: dict[str, Any] = {"LLM_BASE_URL": model.base_url, "LLM_MODEL": "scripted", "LLM_API_KEY": _KEY}
        async with serve(TOKEN) as backend, running.started(backend, **model_settings) as agent:
            yield agent


@pytest.fixture(scope="module")
async def clever(shop: Shop) -> AsyncIterator[Agent]:
    """An agent with a model behind it."""
    async with _with_a_model(shop) as agent:
        yield agent


@pytest.fixture
async def mortal(shop: Shop) -> AsyncIterator[Agent]:
    """Another, whose browser is to die."""
    async with _with_a_model(shop) as agent:
        yield agent


async def test_task_fills_the_form_and_reports_the_order_number(clever: Agent, shop: Shop) -> None:
    result = await clever.execute("run_task", timeout=60, task="order tea, please")
    order = shop.book.orders[-1]
    assert result["text"] == f"Order {order.number} placed for Grace Hopper"
    assert result["success"] is True
    assert result["steps"] == 4
    assert (order.email, order.tea) == ("grace@example.test", "White tea")
    assert await clever.text("#number") == str(order.number), "the task ran on another page than the one in front"
    assert (await clever.backend.status("task_finished"))["detail"] == "done"


async def test_second_task_runs_on_the_same_browser(clever: Agent, shop: Shop) -> None:
    before = len(shop.book.orders)
    assert (await clever.execute("run_task", timeout=60, task="order tea again"))["success"] is True
    assert len(shop.book.orders) == before + 1


async def test_running_task_allows_looking_refuses_the_rest_and_can_be_stopped(clever: Agent, shop: Shop) -> None:
    running_task = asyncio.create_task(clever.post("run_task", timeout=60, task="wait for ever"))
    await clever.becomes(lambda state: state["title"] == "Tea shop", 20)
    assert (await clever.execute("screenshot"))["bytes"] > 1000
    assert (await clever.fault("navigate", url=shop.url))[0] == "busy"
    assert (await clever.fault("run_task", task="another"))[0] == "busy"
    assert (await clever.http.get(f"{clever.api}/health")).json()["taskRunning"] is True
    assert await clever.execute("stop_task") == {"stopped": True}
    assert (await running_task).json()["code"] == "cancelled"
    assert await clever.execute("stop_task") == {"stopped": False}
    assert (await clever.execute("run_task", timeout=60, task="order tea once more"))["success"] is True


async def test_task_over_its_time_ends_with_a_timeout(clever: Agent) -> None:
    code, detail = await clever.fault("run_task", timeout=4, task="wait for ever")
    assert code == "command_timeout", detail
    assert (await clever.http.get(f"{clever.api}/health")).json()["taskRunning"] is False


async def test_task_that_fails_says_why(clever: Agent) -> None:
    assert (await clever.execute("run_task", timeout=60, task="give up"))["success"] is False
    code, detail = await clever.fault("run_task", timeout=60, task="speechless")
    assert code == "task_failed"
    assert "no line for step" in detail


async def test_model_cannot_open_closed_addresses(clever: Agent) -> None:
    await clever.post("run_task", timeout=60, task="closed")
    assert "root:" not in (await clever.execute("extract"))["text"]


async def test_page_that_crashes_under_a_task_ends_the_task_and_the_next_one_works(clever: Agent, shop: Shop) -> None:
    running_task = asyncio.create_task(clever.post("run_task", timeout=60, task="wait for ever"))
    await clever.becomes(lambda state: state["title"] == "Tea shop", 20)
    for process in psutil.Process(clever.part("chromium").pid).children(recursive=True):
        # Some go by themselves while we look.
        with contextlib.suppress(psutil.Error):
            if "--type=renderer" in " ".join(process.cmdline()):
                process.kill()
    answer = (await asyncio.wait_for(running_task, 20)).json()
    assert (answer["code"], answer["detail"]) == ("browser_failed", "the page crashed")
    assert (await clever.execute("run_task", timeout=60, task="order tea after all"))["success"] is True


async def test_browser_that_dies_under_a_task_ends_the_task_and_the_next_one_runs_on_the_new_browser(
    mortal: Agent, shop: Shop
) -> None:
    running_task = asyncio.create_task(mortal.post("run_task", timeout=60, task="wait for ever"))
    await mortal.becomes(lambda state: state["title"] == "Tea shop", 20)
    mortal.part("chromium").kill()
    answer = (await asyncio.wait_for(running_task, 5)).json()
    words = "the browser is gone: it crashed (was ended by SIGKILL)"
    assert (answer["code"], answer["detail"]) == ("browser_failed", words)
    await mortal.backend.status("browser_reopened")
    before = len(shop.book.orders)
    assert (await mortal.execute("run_task", timeout=60, task="order tea on another browser"))["success"] is True
    assert len(shop.book.orders) == before + 1
    assert await mortal.text("#number") == str(shop.book.orders[-1].number)


async def test_browser_that_dies_between_two_tasks_is_left_by_browser_use(mortal: Agent, shop: Shop) -> None:
    assert (await mortal.execute("run_task", timeout=60, task="order tea before"))["success"] is True
    mortal.part("chromium").kill()
    await mortal.backend.status("browser_reopened")
    before = len(shop.book.orders)
    assert (await mortal.execute("run_task", timeout=60, task="order tea behind"))["success"] is True
    assert len(shop.book.orders) == before + 1
