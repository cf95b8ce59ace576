"""The noVNC page in a real browser, behind a prefix, as the API in front of it serves it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright

from core.dev.demo.shop import Shop
from tests.agent.running import TOKEN, Agent, eventually
from tests.capabilities import chromium_path

pytestmark = pytest.mark.needs("agent")
_PREFIX = b"/agents/ag-test/desktop"
_COLOURS = """() => {
  const canvas = document.querySelector('canvas');
  if (!canvas || !canvas.width) return 0;
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4 * 251) seen.add(pixels[i] << 16 | pixels[i + 1] << 8 | pixels[i + 2]);
  return seen.size;
}"""


@contextlib.asynccontextmanager
async def front(port: int) -> AsyncIterator[str]:
    """What the API does before the agent's door: takes the prefix and the Origin away, adds the token."""

    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        with contextlib.suppress(asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            await pass_on(reader, writer)
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *fields = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        upgrade = any(field.lower().startswith(b"upgrade:") for field in fields)
        dropped = (b"origin:",) if upgrade else (b"origin:", b"connection:")
        kept = [field for field in fields if not field.lower().startswith(dropped)]
        kept += [b"X-Agent-Token: " + TOKEN.encode()] + ([] if upgrade else [b"Connection: close"])
        behind, agent = await asyncio.open_connection("127.0.0.1", port)
        agent.write(b"\r\n".join([first.replace(_PREFIX, b"", 1), *kept, b"", b""]))
        try:
            await asyncio.gather(copy(reader, agent), copy(behind, writer))
        finally:
            agent.close()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{_PREFIX.decode()}"
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


@pytest.fixture(scope="module")
async def person() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        yield browser
        await browser.close()


async def _open(browser: Browser, url: str) -> Page:
    page = await browser.new_page(viewport={"width": 1280, "height": 800})
    await page.goto(url)
    return await _painted(page)


async def _painted(page: Page) -> Page:
    """The page once its canvas shows more than one flat colour. (The page's policy forbids playwright's own wait.)"""
    await eventually(lambda: page.evaluate(_COLOURS), lambda colours: bool(colours > 8), 20)
    return page


async def test_person_sees_the_page_and_types_into_it_with_control(agent: Agent, shop: Shop, person: Browser) -> None:
    await agent.execute("navigate", url=f"{shop.url}/order")
    await agent.execute("click", selector="#name")
    async with front(agent.desktop_port) as url:
        page = await _open(person, f"{url}/?mode=control")
        assert await page.locator("#notice").inner_text() == ""
        await page.keyboard.type("Ada", delay=80)
        await agent.becomes(lambda state: any(e.get("value") == "Ada" for e in state["elements"]))
        await page.close()


async def test_view_stays_a_view_although_the_page_is_changed_to_type(
    agent: Agent, shop: Shop, person: Browser
) -> None:
    """A visitor can edit the page's script in their browser, so the server has to hold the line."""
    await agent.execute("navigate", url=f"{shop.url}/order")
    await agent.execute("click", selector="#name")
    async with front(agent.desktop_port) as url:
        context = await person.new_context(viewport={"width": 1280, "height": 800})

        async def tamper(route: object) -> None:
            answer = await route.fetch()  # type: ignore[attr-defined]
            text = (await answer.text()).replace('rfb.viewOnly = mode === "view"', "rfb.viewOnly = false")
            assert "rfb.viewOnly = false" in text
            await route.fulfill(response=answer, body=text + "\nwindow.rfb = rfb;")  # type: ignore[attr-defined]

        await context.route("**/page/desktop.js", tamper)
        page = await context.new_page()
        await page.goto(f"{url}/?mode=view")
        await _painted(page)
        assert await page.locator("#mode").inner_text() == "View only"
        await page.evaluate("rfb.focus()")
        await page.keyboard.type("Eve", delay=80)
        assert (await agent.http.get(f"{agent.api}/health")).json()["viewers"] >= 1
        state = await agent.execute("state")
        assert [e["value"] for e in state["elements"] if e.get("id") == "name"] == [""]
        await context.close()


async def test_page_says_when_the_view_is_over(agent: Agent, shop: Shop, person: Browser) -> None:
    await agent.execute("navigate", url=shop.url)
    async with front(agent.desktop_port) as url:
        page = await _open(person, f"{url}/?mode=view")
        await page.wait_for_selector("#notice button", state="detached")
    await page.wait_for_selector("#notice button", timeout=20_000)
    await page.close()
