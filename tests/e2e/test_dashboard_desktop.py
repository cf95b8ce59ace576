"""The desktop inside the dashboard and on a page of its own: for watching, for control, and for an hour at a time."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Page, Route, expect
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_socket

from core.runtime.base import Reach
from tests.fixtures.web import Dashboard, agent

pytestmark = pytest.mark.needs("chromium", "novnc")

# Whether a canvas of the framed desktop is there, shown, and red.
_RED = """(id) => {
  const canvas = document.querySelector("iframe").contentDocument.querySelector(id);
  if (!canvas?.width || canvas.hidden) return false;
  const own = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  own.drawImage(canvas, 0, 0);
  return String([...own.getImageData(0, 0, 1, 1).data]) === "255,0,0,255";
}"""


@pytest_asyncio.fixture
async def modes(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """The modes in which viewers came to the desktop of a running agent of `shop`."""
    await dashboard.api.running()
    seen: list[str] = []
    async with tiny_desktop(seen) as desktop_url:

        async def reach(agent_id: str, attempt: int) -> Reach:
            return Reach(api_url="http://127.0.0.1:9", desktop_url=desktop_url, token=SecretStr("token"))

        monkeypatch.setattr(dashboard.api.runtime, "reach", reach, raising=False)
        yield seen


async def test_desktop_is_framed_for_watching_and_for_control(dashboard: Dashboard, modes: list[str]) -> None:
    page = await dashboard.open()
    shown = agent(page, "shop")
    await shown.get_by_role("button", name="Watch").click()
    frame = page.frame_locator("iframe")
    await expect(frame.locator("#status")).to_have_text("Connected")
    await expect(shown).to_contain_text("You watch; it does not notice.")
    await shown.get_by_role("button", name="Take control").click()
    await expect(frame.locator("#mode")).to_have_text("control")
    await expect(frame.locator("#status")).to_have_text("Connected")
    assert modes == ["view", "control"]
    await shown.get_by_role("button", name="Close the desktop").click()
    await expect(page.locator("iframe")).to_have_count(0)
    assert "ticket" not in page.url


async def take_control(page: Page) -> None:
    await agent(page, "shop").get_by_role("button", name="Take control").click()
    await expect(page.frame_locator("iframe").locator("#status")).to_have_text("Connected")
    await page.locator("iframe").evaluate("(frame) => (frame.contentWindow.kept = true)")


async def test_desktop_in_the_dashboard_opens_again_by_itself_when_its_time_is_up(
    dashboard: Dashboard, modes: list[str]
) -> None:
    desktops = dashboard.api.app.state.live.desktops
    desktops.seconds = 3
    page = await dashboard.open()
    asked: list[Route] = []
    again, answered = asyncio.Event(), asyncio.Event()

    async def second_held_back(route: Route) -> None:
        asked.append(route)
        if len(asked) > 1:
            again.set()
            await answered.wait()
        await route.continue_()

    await page.route("**/api/agents/*/desktop", second_held_back)
    await take_control(page)
    async with asyncio.timeout(30):
        await again.wait()
    assert await page.evaluate(_RED, "#still"), "the picture went away meanwhile"
    desktops.seconds = 3600
    answered.set()
    await page.wait_for_function(_RED, arg="#screen canvas")
    frame = page.frame_locator("iframe")
    await expect(frame.locator("#status")).to_have_text("Connected")
    await expect(agent(page, "shop")).to_contain_text("You and the agent share mouse and keyboard.")
    await expect(frame.locator("#notice")).to_be_hidden()
    await expect(page.get_by_role("alert")).to_have_count(0)
    assert modes == ["control", "control"]
    assert await page.locator("iframe").evaluate("(frame) => frame.contentWindow.kept"), "the frame was loaded anew"


async def test_desktop_that_may_not_be_opened_again_says_so_in_the_dashboard(
    dashboard: Dashboard, modes: list[str]
) -> None:
    dashboard.api.app.state.live.desktops.seconds = 3
    page = await dashboard.open()
    await take_control(page)
    gone = {"detail": "you have no such agent", "code": "not_found"}
    await page.route("**/api/agents/*/desktop", lambda route: route.fulfill(status=404, json=gone))
    await expect(page.frame_locator("iframe").locator("#notice")).to_contain_text("Open it again from your agent")
    await expect(agent(page, "shop").get_by_role("button", name="Take control")).to_be_visible()
    await expect(page.get_by_role("alert")).to_contain_text("You have no such agent")


async def test_desktop_page_of_a_link_says_what_to_do_when_its_time_is_up(
    dashboard: Dashboard, modes: list[str]
) -> None:
    dashboard.api.app.state.live.desktops.seconds = 1
    agents = (await dashboard.api.ask("GET", "/api/agents")).json()["items"]
    given = await dashboard.api.ask("POST", f"/api/agents/{agents[0]['agentId']}/desktop", json={"mode": "control"})
    url = urlsplit(given.json()["url"])
    page = await dashboard.blank()
    await page.goto(f"{dashboard.url}{url.path}#{url.fragment}")
    await expect(page.get_by_role("heading")).to_have_text("This desktop's time is up")
    await expect(page.locator("#text")).to_contain_text("Open it again from your agent")
    assert modes == ["control"]


@asynccontextmanager
async def tiny_desktop(modes: list[str]) -> AsyncIterator[str]:
    """A VNC server of 8 x 8 points, all of them red; notes the mode each viewer came with."""

    async def greet(socket: ServerConnection) -> None:
        assert socket.request is not None
        modes.append(socket.request.path.partition("mode=")[2])
        await socket.send(b"RFB 003.008\n")
        await socket.recv()
        await socket.send(bytes([1, 1]))  # one kind of security: none
        await socket.recv()
        await socket.send(bytes(4))
        await socket.recv()
        form = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
        await socket.send(struct.pack(">HH", 8, 8) + form + struct.pack(">I", 4) + b"tiny")
        async for said in socket:
            if isinstance(said, bytes) and said[:2] == b"\x03\x00":  # the whole picture, please
                # noVNC has asked for red, green, blue before.
                await socket.send(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 8, 8, 0) + bytes([255, 0, 0, 0]) * 64)

    async with serve_socket(greet, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
