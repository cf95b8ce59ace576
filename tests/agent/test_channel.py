"""The agent's line to Berth: what survives a break, what is refused, what is ignored."""

import asyncio
from datetime import datetime
from functools import partial

import pytest
from starlette.responses import JSONResponse, Response

from core.dev.demo.shop import Shop
from core.domain.wire import UP, Heartbeat, Ready
from tests.agent import running
from tests.agent.backend import Backend

pytestmark = pytest.mark.needs("agent")


async def test_agent_says_hello_then_ready_once_and_every_message_is_of_the_contract(backend: Backend) -> None:
    async with running.started(backend):
        await backend.until(lambda: len(backend.of("heartbeat")) >= 3)
    messages = [UP.validate_python(message) for message in backend.heard]
    assert backend.heard[0]["type"] == "agent_online"
    assert backend.hellos[0]["header"] == "ag-test"
    assert backend.hellos[0]["attempt"] == 1
    ready = [message for message in messages if isinstance(message, Ready)]
    assert len(ready) == 1
    assert 0.1 < ready[0].seconds < 30
    beats = [message for message in messages if isinstance(message, Heartbeat)]
    assert beats[-1].health.status == "healthy"
    assert beats[-1].health.channel == "open"
    times = [datetime.fromisoformat(message["at"]) for message in backend.heard]
    assert all(time.tzinfo is not None for time in times)


async def test_cut_socket_loses_nothing_and_repeats_nothing(backend: Backend, shop: Shop) -> None:
    async with running.started(backend) as agent:
        await agent.execute("navigate", url=f"{shop.url}/long")
        for round_number in range(4):
            backend.deaf = True  # what is said now is heard by nobody who could keep it
            before = len(backend.of("command_result"))
            for number in range(3):
                message = {
                    "type": "execute", "commandId": f"cmd-{round_number}-{number}", "command": "scroll",
                    "parameters": {"by": 10}, "timeoutSeconds": 10,
                }  # fmt: skip
                await backend.send(message)
            await backend.until(partial(_answered, backend, before + 3))
            await backend.drop()
            backend.deaf = False
            for number in range(3):
                assert len(await backend.results(f"cmd-{round_number}-{number}")) == 1
        kept = [message["seq"] for message in backend.kept]
        assert kept == list(range(1, len(kept) + 1))
        assert (await agent.execute("scroll", by=0))["scroll"]["top"] == 120, "a command ran twice, or not at all"


async def test_command_id_runs_once_however_often_it_is_sent(backend: Backend, shop: Shop) -> None:
    async with running.started(backend) as agent:
        await agent.execute("navigate", url=f"{shop.url}/long")
        message = {
            "type": "execute", "commandId": "cmd-once", "command": "scroll", "parameters": {"by": 100},
            "timeoutSeconds": 10,
        }  # fmt: skip
        for _ in range(5):
            await backend.send(message)
        first = (await backend.results("cmd-once"))[0]
        assert first["result"]["scroll"]["top"] == 100
        seen = backend.durable
        await backend.send(message)
        await backend.until(lambda: backend.durable > seen)
        assert {str(result["result"]) for result in await backend.results("cmd-once")} == {str(first["result"])}
        body = {"command": "scroll", "parameters": {"by": 100}, "commandId": "cmd-once"}
        over_http = await agent.http.post(f"{agent.api}/execute", json=body, headers={"X-Agent-Token": running.TOKEN})
        assert over_http.json()["result"] == first["result"]
        assert (await agent.execute("scroll", by=0))["scroll"]["top"] == 100


async def test_cancelled_command_ends_with_that_fault(backend: Backend) -> None:
    async with running.started(backend):
        await backend.order("cmd-page", "navigate", url="data:text/html,<button id=b onclick='for(;;);'>b</button>")
        await backend.send(
            {"type": "execute", "commandId": "cmd-c", "command": "click", "parameters": {"selector": "#b"},
             "timeoutSeconds": 60}
        )  # fmt: skip
        await backend.send({"type": "cancel", "commandId": "cmd-c"})
        assert (await backend.results("cmd-c"))[0]["fault"] == "cancelled"


async def test_unknown_and_broken_messages_are_ignored(backend: Backend) -> None:
    async with running.started(backend):
        assert backend.socket is not None
        await backend.send({"type": "make_tea", "strength": 11})
        await backend.socket.send_text("{not json")
        await backend.socket.send_text("[]")
        await backend.socket.send_bytes(b"\0\1\2")
        await backend.send({"type": "execute", "commandId": "no-timeout"})
        result = await backend.order("cmd-after", "dance")
        assert result["fault"] == "unknown_command"
        assert len(backend.hellos) == 1, "the agent gave its socket up"


async def test_refused_token_ends_the_agent_orderly_after_a_while(backend: Backend) -> None:
    async with running.started(backend) as agent:
        (agent.home / "work" / "downloads" / "prices.csv").write_text("of an attempt that is over")
        backend.refuse = True
        before = backend.handshakes
        await backend.drop()
        assert await agent.ended(40) == 0
        assert backend.handshakes - before == 5
        assert "token refused" in agent.last_word()["reason"]
    assert backend.artefacts == {}, "a zombie must not save"


async def test_refusal_by_somebody_in_front_of_berth_ends_no_agent(backend: Backend) -> None:
    async with running.started(backend) as agent:
        problem = {"type": "about:blank", "status": 401, "code": "unauthenticated"}
        bearer = {"WWW-Authenticate": "Bearer"}
        backend.in_front = [
            Response("RBAC: access denied", 403),
            JSONResponse(problem, 401, bearer, media_type="application/problem+json"),
            Response("<html>Who are you?</html>", 401, {"WWW-Authenticate": 'Basic realm="shop"'}),
        ]
        before = backend.handshakes
        await backend.drop()
        await backend.until(lambda: backend.handshakes - before > 5, 40)
        assert agent.process.returncode is None
        backend.in_front = []
        await backend.until(lambda: len(backend.hellos) == 2)
        assert (await backend.order("cmd-after", "state"))["result"]["url"] == "about:blank"


async def test_replaced_socket_does_not_fight_the_new_one(backend: Backend) -> None:
    async with running.started(backend):
        began = asyncio.get_running_loop().time()
        await backend.drop(4409)
        await backend.until(lambda: len(backend.hellos) == 2)
        assert asyncio.get_running_loop().time() - began >= 4.5


async def test_agent_that_starts_before_berth_answers_gets_through_later(backend: Backend) -> None:
    async with running.started(backend, ready=False, MAIN_BACKEND_URL="http://127.0.0.1:9") as agent:
        await running.eventually(lambda: asyncio.to_thread(agent.log.read_text), lambda text: '"ready"' in text, 30)
        health = await agent.http.get(f"{agent.api}/health")
        assert health.json()["channel"] == "connecting"
        assert health.status_code == 200, "an agent is usable without its channel"


async def test_orders_during_shutdown_are_refused_and_told(backend: Backend) -> None:
    async with running.started(backend) as agent:
        page = "data:text/html,<button id=b onclick='for(;;);'>b</button>"
        await backend.order("cmd-page", "navigate", url=page)
        await backend.send(
            {"type": "execute", "commandId": "cmd-long", "command": "click", "parameters": {"selector": "#b"},
             "timeoutSeconds": 60}
        )  # fmt: skip
        await backend.send({"type": "graceful_shutdown", "reason": "stop", "withinSeconds": 20})
        assert (await backend.results("cmd-long"))[0]["fault"] == "shutting_down"
        assert await agent.ended() == 0


def _answered(backend: Backend, count: int) -> bool:
    return len(backend.of("command_result")) == count
