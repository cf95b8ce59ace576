"""Who comes in: the agent's token and nothing else, and what a viewer may do."""

import asyncio
import contextlib
import struct
from ipaddress import IPv4Address

import pytest
from websockets import Subprotocol
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agent_image.agent.doors import is_loopback
from core.dev.demo.shop import Shop
from tests.agent.backend import Backend
from tests.agent.running import TOKEN, Agent, started
from tests.agent.vnc import TAB, viewing
from tests.capabilities import own_address

pytestmark = pytest.mark.needs("agent")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-Agent-Token": "wrong"}, 401),
        ({"X-Agent-Token": ""}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer wrong", "X-Agent-Token": TOKEN}, 401),
        ({"X-Agent-Token": TOKEN, "Origin": "http://127.0.0.1"}, 403),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "null"}, 403),
    ],
)
async def test_wrong_token_or_a_web_page_is_refused_at_every_door(
    agent: Agent, headers: dict[str, str], status: int
) -> None:
    answer = await agent.http.post(f"{agent.api}/execute", json={"command": "state"}, headers=headers)
    assert answer.status_code == status
    url = f"ws://127.0.0.1:{agent.desktop_port}/websockify?mode=control"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, additional_headers=headers, subprotocols=[Subprotocol("binary")], proxy=None)
    assert refused.value.response.status_code == status


async def test_bearer_token_is_as_good_as_the_header(agent: Agent) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = await agent.http.post(f"{agent.api}/execute", json={"command": "state"}, headers=headers)
    assert answer.status_code == 200


async def test_control_types_and_view_does_not(agent: Agent, shop: Shop) -> None:
    page = "data:text/html,<title>x</title><input autofocus id=a oninput='document.title=this.value'>"
    await agent.execute("navigate", url=page)
    await agent.execute("click", selector="#a")
    async with viewing(agent, "view") as viewer:
        await viewer.click(400, 400)
        await viewer.type("hidden")
        await viewer.press(TAB)
        await viewer.settle()
        assert (await agent.execute("state"))["title"] == "x"
    async with viewing(agent, "control") as viewer:
        await viewer.type("seen")
        await viewer.settle()
        await agent.becomes(lambda state: state["title"] == "seen")
    await agent.backend.status("viewer_active")


async def test_what_a_viewer_says_by_itself_is_no_activity(backend: Backend) -> None:
    async with started(backend) as agent:
        async with viewing(agent, "control") as viewer:
            await viewer.socket.send(b"\x06\0\0\0" + struct.pack(">iII", -8, 0x1F << 24 | 1, 0))
            await viewer.settle()
        # Told in the order in which it happened.
        await backend.order("cmd-behind", "state")
        assert [message for message in backend.kept if message.get("status") == "viewer_active"] == []


async def test_view_does_not_type_by_an_older_version_of_the_protocol_either(agent: Agent) -> None:
    """Its hello is a byte shorter: who counted on 14 would pass a byte that makes keys of the requests behind it."""
    page = "data:text/html,<title>x</title><input autofocus id=a oninput='document.title=this.value'>"
    await agent.execute("navigate", url=page)
    await agent.execute("click", selector="#a")
    url = f"ws://127.0.0.1:{agent.desktop_port}/websockify?mode=view"
    key, requests = b"\x04", bytes([3, 0, 0, 0, 0, 0, ord("h"), 4, 0, 0]) + bytes([3, 0, 0, 0, ord("h"), 4, 1, 0, 0, 0])
    async with connect(
        url, additional_headers={"X-Agent-Token": TOKEN}, subprotocols=[Subprotocol("binary")], proxy=None
    ) as socket:
        await socket.send(b"RFB 003.003\n" + b"\x01" + key + requests)
        # Version, then either the end, or the screen that this viewer shall not have come to.
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(10):
                await socket.recv()
                await socket.recv()
        assert socket.close_code == 1008
    assert (await agent.execute("state"))["title"] == "x"


async def test_viewer_that_says_something_unknown_is_put_out(agent: Agent) -> None:
    async with viewing(agent, "view") as viewer:
        await viewer.socket.send(b"\x63" + b"\0" * 7)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(viewer.drain(), 10)
        assert viewer.socket.close_code == 1008


async def test_desktop_page_and_its_scripts_are_served_without_secrets(agent: Agent) -> None:
    base = f"http://127.0.0.1:{agent.desktop_port}"
    page = await agent.http.get(f"{base}/")
    assert page.status_code == 200
    assert TOKEN not in page.text
    for path in ("page/desktop.js", "page/desktop.css", "core/rfb.js"):
        assert (await agent.http.get(f"{base}/{path}")).status_code == 200, path
    for path in ("core/../../package.json", "core/%2e%2e/%2e%2e/package.json", "page/..%2f..%2fagent/config.py"):
        assert (await agent.http.get(f"{base}/{path}")).status_code in {403, 404}, path


@pytest.mark.needs("address")
async def test_who_asks_from_elsewhere_without_the_token_hears_whether_it_is_well_and_no_more(backend: Backend) -> None:
    async with started(backend, AGENT_HOST=str(IPv4Address(0))) as agent:
        port = agent.api.rpartition(":")[2]
        elsewhere = f"http://{own_address()}:{port}/health"
        for headers in ({}, {"X-Agent-Token": "wrong"}, {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}):
            answer = await agent.http.get(elsewhere, headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"status": "healthy"}), headers
        for shown in ({"X-Agent-Token": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}):
            assert (await agent.http.get(elsewhere, headers=shown)).json()["browserActive"] is True
        assert (await agent.http.get(f"{agent.api}/health")).json()["browserActive"] is True
        page = {"X-Agent-Token": TOKEN, "Origin": "http://shop.example"}
        assert (await agent.http.get(elsewhere, headers=page)).status_code == 403


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.7.6", "::1", "::ffff:127.0.0.1"])
def test_this_machines_own_loopback_is_known(peer: str) -> None:
    assert is_loopback(peer)


@pytest.mark.parametrize(
    "peer", ["10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "::", "1.127.0.0", "localhost", "", None]
)
def test_what_is_not_surely_loopback_is_not_taken_for_it(peer: str | None) -> None:
    assert not is_loopback(peer)
