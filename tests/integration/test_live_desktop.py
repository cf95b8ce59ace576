"""The desktop: its owner alone, by a ticket that works once, and no longer than the agent lives."""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from core.db.repositories import tickets
from core.db.repositories.tickets import TicketGrant, TicketKind
from core.domain.lifecycle import AgentState
from core.runtime.base import Reach
from tests.fixtures.live import Berthed, LiveStage, eventually, raise_stage

WAIT = 10.0


class Screen:
    """Stands for the agent's noVNC port: greets, keeps what it is sent, and notes who asked and how."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.asked: list[dict[str, list[str]]] = []
        self.received: list[bytes] = []
        self.sockets: list[ServerConnection] = []

    async def __call__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        address = urlsplit(socket.request.path)
        if socket.request.headers.get("X-Agent-Token") != self.token or address.path != "/websockify":
            await socket.close(4401)
            return
        self.asked.append(parse_qs(address.query))
        self.sockets.append(socket)
        await socket.send(b"RFB 003.008\n")
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                assert isinstance(message, bytes)
                self.received.append(message)


@asynccontextmanager
async def screen_of(live: LiveStage, agent: Berthed) -> AsyncIterator[Screen]:
    screen = Screen("the-runtime-knows-it")
    async with serve(screen, "127.0.0.1", 0) as server:
        live.runtime.reaches[agent.agent_id, agent.attempt] = Reach(
            api_url="http://127.0.0.1:9", desktop_url=_address(server), token=SecretStr(screen.token)
        )
        yield screen


def _address(server: Server) -> str:
    return f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def ticket_of(live: LiveStage, agent: Berthed, mode: str = "control", user_id: str | None = None) -> str:
    answer = await live.http.post(
        f"{live.replicas[0]}/api/agents/{agent.agent_id}/desktop",
        json={"mode": mode},
        headers=live.bearer(user_id or agent.user_id),
    )
    assert answer.status_code == 200, answer.text
    url = urlsplit(answer.json()["url"])
    assert f"{url.scheme}://{url.netloc}{url.path}?{url.query}" == "http://berth.example/desktop/?"
    ticket: str = parse_qs(url.fragment)["ticket"][0]
    return ticket


@asynccontextmanager
async def viewer(live: LiveStage, ticket: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A viewer's socket, on the replica that did not give the ticket."""
    url = live.replicas[1].replace("http", "ws") + "/desktop/ws"
    protocols = [Subprotocol("berth.desktop"), Subprotocol(f"ticket.{ticket}")]
    async with connect(url, subprotocols=protocols, proxy=None, **options) as socket:
        assert socket.subprotocol == "berth.desktop"
        yield socket


async def closing(live: LiveStage, ticket: str) -> int | None:
    async with viewer(live, ticket) as socket:
        await asyncio.wait_for(socket.wait_closed(), WAIT)
        return socket.close_code


async def last_activity(live: LiveStage, agent: Berthed) -> datetime:
    rows = await live.rows("SELECT last_activity_at AS at FROM agents WHERE agent_id = :a", a=agent.agent_id)
    at: datetime = rows[0]["at"]
    return at


@pytest.mark.parametrize("mode", ["control", "view"])
async def test_owner_sees_the_screen_and_the_agent_is_told_the_mode_of_the_ticket(live: LiveStage, mode: str) -> None:
    agent = await live.agent(await live.user("ann"))
    async with screen_of(live, agent) as screen, viewer(live, await ticket_of(live, agent, mode)) as socket:
        assert await asyncio.wait_for(socket.recv(), WAIT) == b"RFB 003.008\n"
        await socket.send(b"RFB 003.008\n")
        await eventually(lambda: screen.received == [b"RFB 003.008\n"])
        assert screen.asked == [{"mode": [mode]}]


async def test_ticket_works_once_even_when_used_twice_at_the_same_time(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with screen_of(live, agent) as screen:
        ticket = await ticket_of(live, agent)

        async def look() -> int | None:
            async with viewer(live, ticket) as socket:
                with contextlib.suppress(ConnectionClosed):
                    await asyncio.wait_for(socket.recv(), WAIT)
                    return None
                return socket.close_code

        assert sorted(str(code) for code in await asyncio.gather(look(), look())) == ["4401", "None"]
        assert await closing(live, ticket) == 4401
        assert len(screen.asked) == 1


async def test_unknown_expired_and_foreign_tickets_show_nothing(live: LiveStage) -> None:
    ann, eve = await live.user("ann"), await live.user("eve")
    agent = await live.agent(ann)

    async def made(**changes: Any) -> str:
        lifetime = changes.pop("lifetime", timedelta(minutes=1))
        values = {"kind": TicketKind.DESKTOP, "user_id": ann, "agent_id": agent.agent_id, "attempt": 1, "mode": "view"}
        async with live.db.transaction() as session:
            grant = TicketGrant.model_validate({**values, **changes})
            return (await tickets.issue(session, grant, datetime.now(UTC), lifetime)).get_secret_value()

    async with screen_of(live, agent) as screen:
        assert await closing(live, "tk_guessed") == 4401
        assert await closing(live, agent.token) == 4401
        assert await closing(live, await made(lifetime=timedelta(seconds=-1))) == 4401
        assert await closing(live, await made(attempt=2)) == 4401
        assert await closing(live, await made(user_id=eve)) == 4401
        assert await closing(live, await made(kind=TicketKind.EVENTS)) == 4401
        url = live.replicas[1].replace("http", "ws") + "/desktop/ws"
        async with connect(url, proxy=None) as socket:
            await asyncio.wait_for(socket.wait_closed(), WAIT)
            assert socket.close_code == 4401
        assert screen.asked == []


async def test_stranger_gets_no_ticket_and_a_waiting_agent_has_none(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    url = f"{live.replicas[0]}/api/agents/{agent.agent_id}/desktop"
    stranger = await live.http.post(url, json={"mode": "view"}, headers=live.bearer(await live.user("eve")))
    assert stranger.status_code == 404
    assert (await live.http.post(url, json={"mode": "view"})).status_code == 401
    odd = await live.http.post(url, json={"mode": "own"}, headers=live.bearer(agent.user_id))
    assert odd.status_code == 422
    await live.change(agent, state=AgentState.STARTING.value)
    early = await live.http.post(url, json={"mode": "view"}, headers=live.bearer(agent.user_id))
    assert (early.status_code, early.json()["code"]) == (409, "agent_not_ready")


async def test_page_of_another_origin_may_not_connect(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with screen_of(live, agent):
        ticket = await ticket_of(live, agent)
        with pytest.raises(InvalidStatus) as refused:
            async with viewer(live, ticket, origin="https://evil.example"):
                pass
        assert refused.value.response.status_code == 403
        async with viewer(live, ticket, origin="http://berth.example") as socket:
            assert await asyncio.wait_for(socket.recv(), WAIT) == b"RFB 003.008\n"


@pytest.mark.parametrize("change", [{"state": "terminated", "token_hash": None}, {"attempt": 2}])
async def test_desktop_closes_when_the_agent_ends_or_starts_anew(live: LiveStage, change: dict[str, Any]) -> None:
    agent = await live.agent(await live.user("ann"))
    async with screen_of(live, agent) as screen, viewer(live, await ticket_of(live, agent)) as socket:
        await asyncio.wait_for(socket.recv(), WAIT)
        await live.change(agent, **change)
        await live.rows("SELECT pg_notify('berth_channel', :a)", a=agent.agent_id)
        await asyncio.wait_for(socket.wait_closed(), WAIT)
        assert socket.close_code == 4410
        await asyncio.wait_for(screen.sockets[0].wait_closed(), WAIT)


async def test_desktop_ends_after_its_lifetime_and_asks_to_come_again(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with (
        raise_stage(live.url, live.settings, desktop_seconds=0.2) as short,
        screen_of(short, agent) as screen,
        viewer(short, await ticket_of(short, agent)) as socket,
    ):
        await asyncio.wait_for(socket.wait_closed(), WAIT)
        assert socket.close_code == 4408
        await asyncio.wait_for(screen.sockets[0].wait_closed(), WAIT)
        await eventually(lambda: short.apps[1].state.live.seats.taken(agent.user_id) == 0)


async def test_screen_that_closes_closes_the_viewer(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with screen_of(live, agent) as screen, viewer(live, await ticket_of(live, agent)) as socket:
        await asyncio.wait_for(socket.recv(), WAIT)
        await screen.sockets[0].close()
        await asyncio.wait_for(socket.wait_closed(), WAIT)
        assert socket.close_code == 4410


async def test_screen_that_cannot_be_reached_says_try_again(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    assert await closing(live, await ticket_of(live, agent)) == 1013
    live.runtime.reaches[agent.agent_id, 1] = Reach(
        api_url="http://127.0.0.1:9", desktop_url="http://127.0.0.1:9", token=SecretStr("x")
    )
    assert await closing(live, await ticket_of(live, agent)) == 1013


@pytest.mark.parametrize("where", ["{ws}/inner", "{http}/inner", "/elsewhere", "http://[", "gopher://x"])
async def test_screen_that_sends_elsewhere_is_not_followed(live: LiveStage, where: str) -> None:
    agent = await live.agent(await live.user("ann"))
    paths: list[str] = []

    def inner(_: ServerConnection, request: Request) -> None:
        paths.append(request.path)

    async with serve(Screen("x"), "127.0.0.1", 0, process_request=inner) as other:
        http = _address(other)
        location = where.format(http=http, ws=http.replace("http", "ws"))

        def redirect(_: ServerConnection, request: Request) -> Response:
            paths.append(urlsplit(request.path).path)
            return Response(302, "Found", Headers({"Location": location}), b"")

        async with serve(Screen("x"), "127.0.0.1", 0, process_request=redirect) as server:
            live.runtime.reaches[agent.agent_id, 1] = Reach(
                api_url="http://127.0.0.1:9", desktop_url=_address(server), token=SecretStr("x")
            )
            assert await closing(live, await ticket_of(live, agent)) == 1013
    assert paths == ["/websockify"]


async def test_typing_is_activity_and_looking_is_not(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    before = await last_activity(live, agent)
    async with screen_of(live, agent) as screen, viewer(live, await ticket_of(live, agent)) as socket:
        await socket.send(b"\x03\x00" + bytes(8))  # asks for the picture, as every viewer does all the time
        await eventually(lambda: len(screen.received) == 1)
        # What kinds of clipboard it knows, and that it wants what was copied in the desktop: nobody touched a key.
        for actions in (0x1F, 0x02):
            await socket.send(b"\x06\x00\x00\x00" + struct.pack(">iI", -4, actions << 24 | 1))
        await eventually(lambda: len(screen.received) == 3)
        assert await last_activity(live, agent) == before
        await socket.send(b"\x04\x01" + bytes(6))  # a key
        await eventually(lambda: len(screen.received) == 4)
        assert await last_activity(live, agent) > before


@pytest.mark.parametrize("said", [struct.pack(">i", 5) + b"hello", struct.pack(">iI", -4, 8 << 24 | 1)])
async def test_pasting_is_activity(live: LiveStage, said: bytes) -> None:
    agent = await live.agent(await live.user("ann"))
    before = await last_activity(live, agent)
    async with screen_of(live, agent) as screen, viewer(live, await ticket_of(live, agent)) as socket:
        await socket.send(b"\x06\0\0\0" + said)
        await eventually(lambda: len(screen.received) == 1)
        assert await last_activity(live, agent) > before


async def test_text_instead_of_the_protocol_closes_the_viewer(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with screen_of(live, agent) as screen, viewer(live, await ticket_of(live, agent)) as socket:
        await asyncio.wait_for(socket.recv(), WAIT)
        await socket.send("hello?")
        await asyncio.wait_for(socket.wait_closed(), WAIT)
        assert socket.close_code == 4400
        assert screen.received == []


async def test_viewer_page_and_its_library_are_served_and_nothing_beside_them(live: LiveStage) -> None:
    base = live.replicas[0]
    page = await live.http.get(f"{base}/desktop/")
    assert page.status_code == 200
    assert "script" in page.text
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    for path in ("desktop/desktop.js", "desktop/desktop.css", "static/novnc/core/rfb.js", "static/novnc/LICENSE.txt"):
        assert (await live.http.get(f"{base}/{path}")).status_code == 200, path
    for path in (
        "desktop/desktop.html",
        "desktop/..%2f..%2fpyproject.toml",
        "static/novnc/package.json",
        "static/novnc/core/..%2f..%2f..%2f..%2fpyproject.toml",
        "static/novnc/core/%00",
        f"static/novnc/core/{'a' * 300}",
        "static/novnc/core",
    ):
        answer = await live.http.get(f"{base}/{path}")
        assert (answer.status_code, json.loads(answer.content)["code"]) == (404, "not_found"), path
