"""An agent's own log over HTTP, whole and as it grows."""

import asyncio

import httpx2

from core.errors import RuntimeRetryable
from tests.fixtures.api import Api
from tests.fixtures.live import serve


async def test_log_is_text(api: Api) -> None:
    agent_id = await api.running()
    api.runtime.lines[agent_id] = [b"one\n", b"two\n"]
    log = await api.ask("GET", f"/api/agents/{agent_id}/logs")
    assert (log.status_code, log.text) == (200, "one\ntwo\n")
    assert log.headers["content-type"] == "text/plain; charset=utf-8"


async def test_followed_log_goes_on(api: Api) -> None:
    agent_id = await api.running()
    api.runtime.lines[agent_id] = [b"one\n"]
    asking = asyncio.create_task(api.ask("GET", f"/api/agents/{agent_id}/logs?follow=true"))
    await api.runtime.waiting.wait()
    assert not asking.done()
    api.runtime.more.set()
    assert (await asking).text == "one\nand more\n"


async def test_followed_log_ends_in_order_when_the_api_leaves(api: Api) -> None:
    agent_id = await api.running()
    api.runtime.lines[agent_id] = [b"one\n"]
    async with serve(api.app) as url, httpx2.AsyncClient(base_url=url, headers=api.bearer(), timeout=30) as http:
        asking = asyncio.create_task(http.get(f"/api/agents/{agent_id}/logs?follow=true"))
        await api.runtime.waiting.wait()
        api.app.state.leave()
        # Cut off, it would raise.
        assert (await asking).text == "one\n"


async def test_followed_logs_of_one_user_are_bounded_and_their_places_come_back(api: Api) -> None:
    agent_id = await api.running()
    path = f"/api/agents/{agent_id}/logs?follow=true"
    asking = [asyncio.create_task(api.ask("GET", path)) for _ in range(11)]
    done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().json()["code"] for task in done] == ["too_many_requests"]
    api.runtime.more.set()
    answers = await asyncio.gather(*asking)
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [503]
    assert (await api.ask("GET", path)).status_code == 200


async def test_log_of_a_runtime_that_is_away_is_a_problem(api: Api) -> None:
    agent_id = await api.running()
    api.runtime.fails = RuntimeRetryable("away")
    answer = await api.ask("GET", f"/api/agents/{agent_id}/logs")
    assert (answer.status_code, answer.json()["code"]) == (503, "runtime_unavailable")
    api.runtime.fails = None
    assert (await api.ask("GET", f"/api/agents/{agent_id}/logs")).text == ""
