"""The real agent on the real API: it connects by itself, obeys its user, and shows its screen by ticket alone."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from core.dev.demo.shop import Shop
from core.domain.lifecycle import AgentState
from core.runtime.base import Reach
from tests.agent import running
from tests.agent.backend import free_port
from tests.agent.vnc import Viewer
from tests.fixtures.live import Berthed, LiveStage, eventually

pytestmark = pytest.mark.needs("agent")


@asynccontextmanager
async def process(live: LiveStage, agent: Berthed, shop: Shop) -> AsyncIterator[asyncio.subprocess.Process]:
    """The agent's process, connected to the first replica."""
    home, api_port, desktop_port = running.new_home(), free_port(), free_port()
    browser = json.dumps({"allowed_hosts": [f"127.0.0.1:{shop.port}"]})
    named = {"AGENT_ID": agent.agent_id, "AGENT_TOKEN": agent.token, "AGENT_BROWSER": browser}
    environment = running.environment(live.replicas[0], home, api_port, desktop_port) | named
    live.runtime.reaches[agent.agent_id, 1] = Reach(
        api_url=f"http://127.0.0.1:{api_port}",
        desktop_url=f"http://127.0.0.1:{desktop_port}",
        token=SecretStr(agent.token),
    )
    with (home / "agent.log").open("wb") as out:
        started = await asyncio.create_subprocess_exec(
            *running.command(home), cwd="/", env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            os.kill(started.pid, signal.SIGKILL)
            await started.wait()
        shutil.rmtree(home, ignore_errors=True)


async def result(live: LiveStage, agent: Berthed, command: str, **parameters: Any) -> dict[str, Any]:
    answer = await live.execute(agent, {"command": command, "parameters": parameters}, replica=1)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["result"]
    return found


@asynccontextmanager
async def viewing(live: LiveStage, agent: Berthed, mode: str) -> AsyncIterator[Viewer]:
    url = f"{live.replicas[1]}/api/agents/{agent.agent_id}/desktop"
    answer = await live.http.post(url, json={"mode": mode}, headers=live.bearer(agent.user_id))
    ticket = parse_qs(urlsplit(answer.json()["url"]).fragment)["ticket"][0]
    protocols = [Subprotocol("berth.desktop"), Subprotocol(f"ticket.{ticket}")]
    address = live.replicas[1].replace("http", "ws") + "/desktop/ws"
    async with connect(address, subprotocols=protocols, proxy=None) as socket:
        viewer = Viewer(socket)
        await viewer.handshake()
        yield viewer


async def test_real_agent_comes_ready_obeys_shows_itself_and_leaves_when_told(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"), AgentState.STARTING)
    with Shop() as shop:
        async with process(live, agent, shop) as started:
            await eventually(lambda: (agent.agent_id, 1) in live.lives.readied, 40)
            await live.change(agent, state="running")

            await result(live, agent, "navigate", url=f"http://127.0.0.1:{shop.port}/order")
            picture = await result(live, agent, "screenshot")
            url = live.replicas[1] + picture["url"]
            fetched = await live.http.get(url, headers=live.bearer(agent.user_id))
            assert fetched.headers["content-type"] == picture["contentType"] == "image/png"
            assert fetched.content.startswith(b"\x89PNG")
            assert len(fetched.content) == picture["bytes"]

            await result(live, agent, "click", selector="#name")
            async with viewing(live, agent, "view") as viewer:
                await viewer.type("no")
                await viewer.settle()
            async with viewing(live, agent, "control") as viewer:
                await viewer.type("yes")
                await viewer.settle()

            async def typed() -> bool:
                found = await result(live, agent, "state")
                return "yes" in json.dumps(found)

            await eventually(typed)
            assert "noyes" not in json.dumps(await result(live, agent, "state"))

            refused = await live.execute(agent, {"command": "navigate", "parameters": {"url": "file:///etc/passwd"}})
            assert (refused.status_code, refused.json()["code"]) == (422, "address_refused")

            await live.rows(
                "INSERT INTO commands (agent_id, command_id, attempt, kind, name, parameters, deadline_at) VALUES "
                "(:a, 'bye', 1, 'graceful_shutdown', 'graceful_shutdown', "
                """'{"reason": "user_requested", "withinSeconds": 30}', now() + interval '1 minute') """
                "RETURNING pg_notify('berth_commands', :a)",
                a=agent.agent_id,
            )
            assert await asyncio.wait_for(started.wait(), 30) == 0


async def test_real_agent_whose_token_is_dead_goes_away(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"), AgentState.STARTING)
    with Shop() as shop:
        async with process(live, agent, shop) as started:
            await eventually(lambda: (agent.agent_id, 1) in live.lives.readied, 40)
            await live.change(agent, state="terminated", token_hash=None)
            await live.rows("SELECT pg_notify('berth_channel', :a)", a=agent.agent_id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(started.wait(), 60)
            assert started.returncode == 0
