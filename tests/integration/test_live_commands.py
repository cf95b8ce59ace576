"""Commands from users to agents, over two API replicas."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from core.domain.lifecycle import AgentState
from core.domain.wire import CommandFault, Execute
from core.runtime.base import Reach
from tests.fakes.agent import Answer
from tests.fixtures.live import Berthed, LiveStage, eventually, serve

STATE: dict[str, Any] = {"command": "state"}


async def test_command_is_executed_through_the_replica_that_does_not_hold_the_socket(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent, replica=0).online() as fake:
        body = {"command": "navigate", "parameters": {"url": "https://example.org/"}}
        answer = await live.execute(agent, body, replica=1)
        assert answer.status_code == 200, answer.text
        assert answer.json()["result"] == {"did": "navigate", "with": {"url": "https://example.org/"}}
        assert fake.runs == [answer.json()["commandId"]]
    events = await live.rows("SELECT kind, detail FROM events WHERE agent_id = :a", a=agent.agent_id)
    assert [event["kind"] for event in events] == ["command.executed"]
    assert events[0]["detail"]["commandId"] == answer.json()["commandId"]


async def test_same_key_runs_once_and_answers_alike_also_at_the_same_time(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent).online() as fake:
        answers = await asyncio.gather(*(live.execute(agent, STATE, replica=n % 2, key="one/key") for n in range(12)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        assert fake.runs == ["one/key"]
        other = await live.execute(agent, {"command": "scroll"}, key="one/key")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    await live.change(agent, state="terminated", token_hash=None)
    late = await live.execute(agent, STATE, key="one/key")
    assert late.text == answers[0].text


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (CommandFault.BUSY, 409),
        (CommandFault.INVALID_PARAMETERS, 422),
        (CommandFault.NOT_FOUND, 422),
        (CommandFault.REFUSED_ADDRESS, 422),
        (CommandFault.BROWSER_FAILED, 502),
        (CommandFault.TIMED_OUT, 504),
    ],
)
async def test_fault_of_the_agent_is_the_code_of_the_problem(live: LiveStage, fault: CommandFault, status: int) -> None:
    async def refuse(_: Execute) -> Answer:
        return fault

    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent, execute=refuse).online():
        answer = await live.execute(agent, STATE)
    assert (answer.status_code, answer.json()["code"]) == (status, fault.value)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_slow_command_times_out_goes_on_and_can_be_looked_at(live: LiveStage) -> None:
    go = asyncio.Event()

    async def slow(order: Execute) -> Answer:
        await go.wait()
        return {"late": True}

    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent, execute=slow).online():
        answer = await live.execute(agent, {**STATE, "timeoutSeconds": 0.3}, key="slow")
        assert (answer.status_code, answer.json()["code"]) == (504, "command_timeout")
        url = f"{live.replicas[1]}/api/agents/{agent.agent_id}/commands/slow"
        headers = live.bearer(agent.user_id)
        assert (await live.http.get(url, headers=headers)).json()["state"] == "sent"
        go.set()
        again = await live.execute(agent, STATE, key="slow", replica=1)
        assert again.json()["result"] == {"late": True}
        assert (await live.http.get(url, headers=headers)).json()["state"] == "done"
        assert (await live.http.delete(url, headers=headers)).status_code == 204


async def test_caller_that_left_holds_no_seat_and_its_command_goes_on_for_the_same_key(live: LiveStage) -> None:
    go = asyncio.Event()

    async def slow(_: Execute) -> Answer:
        await go.wait()
        return {"late": True}

    agent = await live.agent(await live.user("ann"))
    calling = live.apps[0].state.live.calling
    async with live.fake(agent, execute=slow).online() as fake:
        waiting = asyncio.create_task(live.execute(agent, {**STATE, "timeoutSeconds": 3600}, key="left"))
        await fake.until(lambda fake: fake.runs == ["left"])
        assert calling.taken(agent.user_id) == 1
        waiting.cancel()
        await eventually(lambda: calling.taken(agent.user_id) == 0)
        go.set()
        again = await live.execute(agent, STATE, key="left")
        assert (again.status_code, again.json()["result"]) == (200, {"late": True})
        assert (fake.runs, fake.cancels) == (["left"], [])


async def test_cancel_reaches_the_agent_and_ends_the_wait(live: LiveStage) -> None:
    async def never(_: Execute) -> Answer:
        return None

    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent, execute=never).online() as fake:
        waiting = asyncio.create_task(live.execute(agent, STATE, key="c/1"))
        await fake.until(lambda fake: fake.runs == ["c/1"])
        url = f"{live.replicas[1]}/api/agents/{agent.agent_id}/commands/c%2F1"
        stranger = await live.http.delete(url, headers=live.bearer(await live.user("eve")))
        assert stranger.status_code == 404
        assert (await live.http.delete(url, headers=live.bearer(agent.user_id))).status_code == 202
        answer = await waiting
        assert (answer.status_code, answer.json()["code"]) == (409, "cancelled")
        assert fake.cancels == ["c/1"]


async def test_command_sent_into_a_broken_socket_is_sent_again_and_run_once(live: LiveStage) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def wait(_: Execute) -> Answer:
        started.set()
        await go.wait()
        return {"ok": True}

    agent = await live.agent(await live.user("ann"))
    fake = live.fake(agent, replica=0, execute=wait)
    async with fake.online():
        waiting = asyncio.create_task(live.execute(agent, STATE, key="k", replica=1))
        await started.wait()
        await fake.cut()
        go.set()
        await eventually(lambda: fake.unacknowledged)
        fake.url = live.replicas[1].replace("http", "ws") + "/ws/agent"
        await fake.connect()
        assert (await waiting).json()["result"] == {"ok": True}
        await fake.heard_all()
        assert fake.runs == ["k"]
    events = await live.rows("SELECT kind FROM events WHERE agent_id = :a", a=agent.agent_id)
    assert len(events) == 1


async def test_command_lost_with_its_socket_is_sent_again_through_the_next(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    fake = live.fake(agent, replica=0)
    fake.deaf = True
    async with fake.online():
        waiting = asyncio.create_task(live.execute(agent, STATE, key="k", replica=1))

        async def sent() -> bool:
            rows = await live.rows("SELECT state FROM commands WHERE agent_id = :a", a=agent.agent_id)
            return bool(rows) and rows[0]["state"] == "sent"

        await eventually(sent)
        await fake.cut()
        fake.deaf = False
        await fake.connect()
        assert (await waiting).status_code == 200
        assert fake.runs == ["k"]


async def test_command_of_an_agent_that_ends_is_answered_at_once(live: LiveStage) -> None:
    async def never(_: Execute) -> Answer:
        return None

    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent, execute=never).online() as fake:
        waiting = asyncio.create_task(live.execute(agent, STATE))
        await fake.until(lambda fake: bool(fake.runs))
        await live.change(agent, state="failed", token_hash=None)
        await live.rows("SELECT pg_notify('berth_channel', :a)", a=agent.agent_id)
        answer = await asyncio.wait_for(waiting, 3)
        assert (answer.status_code, answer.json()["code"]) == (409, "shutting_down")
        await fake.until(lambda fake: fake.closed_with == 4401)


@asynccontextmanager
async def http_agent(live: LiveStage, agent: Berthed, answer: tuple[int, dict[str, Any]]) -> AsyncIterator[list[Any]]:
    """The agent's own HTTP door; gives what it was asked."""
    asked: list[Any] = []
    app = FastAPI()

    @app.post("/execute")
    async def execute(request: Request) -> JSONResponse:
        asked.append((request.headers.get("x-agent-token"), await request.json()))
        return JSONResponse(answer[1], answer[0])

    async with serve(app) as url:
        live.runtime.reaches[agent.agent_id, 1] = Reach(api_url=url, desktop_url=url, token=SecretStr("inside"))
        yield asked


async def test_agent_without_a_socket_is_reached_over_http(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    done = {"status": "executed", "commandId": "h", "result": {"title": "Shop"}}
    async with http_agent(live, agent, (200, done)) as asked:
        answer = await live.execute(agent, {"command": "navigate", "parameters": {"url": "http://shop/"}}, key="h")
        assert answer.json() == {"status": "executed", "commandId": "h", "result": {"title": "Shop"}}
        ((token, body),) = asked
        assert token == "inside"
        assert body.pop("timeoutSeconds") > 100
        assert body == {"command": "navigate", "parameters": {"url": "http://shop/"}, "commandId": "h"}
    events = await live.rows("SELECT kind FROM events WHERE agent_id = :a", a=agent.agent_id)
    assert [event["kind"] for event in events] == ["command.executed"]


async def test_command_whose_caller_leaves_at_once_still_comes_to_an_agent_without_a_socket(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    done = {"status": "executed", "commandId": "h", "result": {"title": "Shop"}}
    async with http_agent(live, agent, (200, done)) as asked:
        waiting = asyncio.create_task(live.execute(agent, STATE, key="h"))

        async def submitted() -> bool:
            return bool(await live.rows("SELECT 1 FROM commands WHERE agent_id = :a", a=agent.agent_id))

        await eventually(submitted)
        waiting.cancel()
        await eventually(lambda: asked)
        assert (await live.execute(agent, STATE, key="h")).json()["result"] == {"title": "Shop"}
    await eventually(lambda: live.apps[0].state.live.calling.taken(agent.user_id) == 0)


async def test_half_a_character_in_an_answer_over_http_does_not_cost_the_command(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    app = FastAPI()

    @app.post("/execute")
    async def execute() -> Response:
        return Response(json.dumps({"result": {"title": "a\ud83d"}}), media_type="application/json")

    async with serve(app) as url:
        live.runtime.reaches[agent.agent_id, 1] = Reach(api_url=url, desktop_url=url, token=SecretStr("inside"))
        assert (await live.execute(agent, STATE)).json()["result"] == {"title": "a\ufffd"}


async def test_fault_over_http_is_the_same_as_over_the_socket(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with http_agent(live, agent, (409, {"code": "busy", "detail": "a task runs"})):
        answer = await live.execute(agent, STATE)
        assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (409, "busy", "a task runs")


async def test_agent_that_http_cannot_reach_gets_its_command_when_it_comes_back(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with http_agent(live, agent, (401, {"code": "unauthenticated"})) as asked:
        waiting = asyncio.create_task(live.execute(agent, STATE, key="k"))
        await eventually(lambda: asked)
        async with live.fake(agent, replica=1).online() as fake:
            assert (await waiting).status_code == 200
            assert fake.runs == ["k"]


@asynccontextmanager
async def endless_agent(live: LiveStage, agent: Berthed, head: bytes, chunk: bytes) -> AsyncIterator[list[str]]:
    """The HTTP door of an agent in wrong hands: its answer never ends. Gives what it was asked once that was left."""
    asked: list[str] = []
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head + b"\r\n")
            # More than anybody should take, and no more, so that whoever does take it all does not die of it.
            for _ in range((64 << 20) // len(chunk)):
                writer.write(chunk)
                await writer.drain()
            await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        live.runtime.reaches[agent.agent_id, 1] = Reach(api_url=url, desktop_url=url, token=SecretStr("inside"))
        yield asked
        await asyncio.wait_for(left.wait(), 10)


_BOMB = gzip.compress(b'{"result": {"title": "' + b"0" * (32 << 20))


@pytest.mark.parametrize(
    ("head", "chunk"), [(b"", b"0" * 65_536), (b"Content-Encoding: gzip\r\n", _BOMB)], ids=["endless", "gzip bomb"]
)
async def test_answer_over_http_without_an_end_is_too_large_and_taken_no_further(
    live: LiveStage, head: bytes, chunk: bytes
) -> None:
    agent = await live.agent(await live.user("ann"))
    async with endless_agent(live, agent, head, chunk) as asked:
        answer = await live.execute(agent, {**STATE, "timeoutSeconds": 10})
        assert (answer.status_code, answer.json()["code"]) == (422, "result_too_large")
        (request,) = asked
        assert "accept-encoding: identity\r\n" in request


@pytest.mark.parametrize("state", [s for s in AgentState if s is not AgentState.RUNNING])
async def test_agent_that_is_not_running_takes_no_commands(live: LiveStage, state: AgentState) -> None:
    agent = await live.agent(await live.user("ann"), state)
    answer = await live.execute(agent, STATE)
    assert (answer.status_code, answer.json()["code"]) == (409, "agent_not_ready")
    assert await live.rows("SELECT 1 FROM commands WHERE agent_id = :a", a=agent.agent_id) == []


async def test_simulated_agent_refuses_commands_at_once(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    await live.change(agent, runtime="memory")
    answer = await live.execute(agent, {**STATE, "timeoutSeconds": 60})
    assert (answer.status_code, answer.json()["code"]) == (409, "order_refused")
    assert "simulated" in answer.json()["detail"]
    assert await live.rows("SELECT 1 FROM commands WHERE agent_id = :a", a=agent.agent_id) == []


async def test_agent_whose_channel_has_not_opened_yet_is_waited_for(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    early = asyncio.create_task(live.execute(agent, {**STATE, "timeoutSeconds": 60}))
    while not await live.rows("SELECT 1 FROM commands WHERE agent_id = :a", a=agent.agent_id):
        assert not early.done()
    async with live.fake(agent).online():
        assert (await early).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"command": "dance"}, "unknown_command"),
        ({"command": "navigate"}, "invalid_parameters"),
        ({"command": "navigate", "parameters": {"url": "https://x.example", "colour": 1}}, "invalid_parameters"),
        ({"command": "input", "parameters": {"selector": "#a", "text": "a\x00b"}}, "invalid_parameters"),
        ({"command": "state", "timeoutSeconds": 0}, "invalid_request"),
        ({"command": "state", "surprise": 1}, "invalid_request"),
        ({"command": "state", "timeout_seconds": 5}, "invalid_request"),
    ],
)
async def test_bad_command_is_refused_with_its_reason(live: LiveStage, body: dict[str, Any], code: str) -> None:
    agent = await live.agent(await live.user("ann"))
    answer = await live.execute(agent, body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


async def test_stranger_has_no_such_agent(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    eve = await live.user("eve")
    answer = await live.execute(agent, STATE, user_id=eve)
    assert answer.status_code == 404
    url = f"{live.replicas[0]}/api/agents/{agent.agent_id}/commands/x"
    assert (await live.http.get(url, headers=live.bearer(eve))).status_code == 404


async def test_thirty_third_open_command_is_told_to_wait(live: LiveStage) -> None:
    async def never(_: Execute) -> Answer:
        return None

    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent, execute=never).online():
        body = {**STATE, "timeoutSeconds": 0.05}
        for _ in range(32):
            assert (await live.execute(agent, body)).status_code == 504
        answer = await live.execute(agent, body)
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_requests")


async def test_hundred_and_first_waiting_call_of_a_user_is_told_to_come_again(live: LiveStage) -> None:
    async def never(_: Execute) -> Answer:
        return None

    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent, execute=never).online() as fake:
        body = {**STATE, "timeoutSeconds": 3600}
        waiting = [asyncio.create_task(live.execute(agent, body, key="same")) for _ in range(100)]
        await eventually(lambda: live.apps[0].state.live.calling.taken(agent.user_id) == 100)
        answer = await live.execute(agent, body, key="same")
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_requests")
        assert fake.runs == ["same"]
        url = f"{live.replicas[0]}/api/agents/{agent.agent_id}/commands/same"
        await live.http.delete(url, headers=live.bearer(agent.user_id))
        assert {one.json()["code"] for one in await asyncio.gather(*waiting)} == {"cancelled"}
