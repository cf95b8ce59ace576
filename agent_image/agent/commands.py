"""What a caller can do to the page in front, over our own CDP: usable long before browser-use is loaded."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_image.agent.addresses import Refused, check_scheme
from agent_image.agent.memory import OomWatch
from agent_image.agent.pipe import AnswerTooLarge, CdpError, Message
from agent_image.agent.tabs import PageCrashed, Tab, Tabs
from core.domain.excerpts import place
from core.domain.wire import (
    Click,
    CommandFault,
    Element,
    Extract,
    Input,
    Navigate,
    Parameters,
    Pdf,
    Screenshot,
    Scroll,
    Select,
    State,
)

_SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
_LOAD_SECONDS = 15
_MAX_ELEMENTS = 300
_MAX_PICTURE_HEIGHT = 16_384  # Chromium's own limit for one surface
_CHUNK = 1 << 18

Result = dict[str, Any]


class CommandFailed(Exception):
    """A command has no result: `fault` for programs, the text for people."""

    def __init__(self, fault: CommandFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


@dataclass(frozen=True)
class Document:
    """A picture or PDF, to be stored by the caller. `chunks` can be read once."""

    content_type: str
    chunks: AsyncIterator[bytes]


class PageCommands:
    """One method a command. All of them raise `CommandFailed`, and nothing else that a page can cause."""

    def __init__(self, tabs: Tabs, oom: OomWatch) -> None:
        self._tabs = tabs
        self._oom = oom

    async def run(self, parameters: Parameters) -> Result | Document:
        if self._tabs.loss is not None:
            raise CommandFailed(*self._tabs.loss)
        self._tabs.commanding += 1
        try:
            return await self._repeated(parameters)
        except CdpError as error:
            raise self._failure(error) from error
        except TimeoutError as error:
            raise CommandFailed(CommandFault.TIMED_OUT, "the page did not answer") from error
        finally:
            self._tabs.commanding -= 1

    def _failure(self, error: CdpError) -> CommandFailed:
        if self._tabs.loss is not None:
            return CommandFailed(*self._tabs.loss)
        if isinstance(error, AnswerTooLarge):
            return CommandFailed(CommandFault.RESULT_TOO_LARGE, str(error))
        if not isinstance(error, PageCrashed) and not self._tabs.cut_off():
            return CommandFailed(CommandFault.BROWSER_FAILED, f"the browser refused: {error}")
        fault = CommandFault.PAGE_OUT_OF_MEMORY if self._oom.rose() else CommandFault.BROWSER_FAILED
        return CommandFailed(fault, str(error))

    async def _repeated(self, parameters: Parameters) -> Result | Document:
        """Looking at a page that goes elsewhere in that moment fails; look again. Nothing that acts is repeated."""
        for last in (False, False, False, True):
            tab = await self._tabs.active()
            before = tab.epoch
            self._tabs.dismiss_dialog(tab)
            try:
                result = await self._run(tab, parameters)
            except CdpError:
                looking = isinstance(parameters, Extract | State)
                if last or tab.crashed or tab.epoch == before or not looking:
                    raise
                continue
            if isinstance(result, dict) and tab.dialogs:
                result["dialogs"] = list(tab.dialogs)
                tab.dialogs.clear()
            return result
        raise AssertionError("the last round returns or raises")

    async def _run(self, tab: Tab, parameters: Parameters) -> Result | Document:
        match parameters:
            case Navigate():
                return await self._navigate(tab, parameters)
            case Click():
                return await self._click(tab, parameters)
            case Input():
                return await self._input(tab, parameters)
            case Select():
                return await self._select(tab, parameters)
            case Scroll():
                return await self._scroll(tab, parameters)
            case Screenshot():
                return await self._screenshot(tab, parameters)
            case Pdf():
                return await self._pdf(tab, parameters)
            case Extract():
                return await self._extract(tab, parameters)
            case State():
                return await self._state(tab)
            case _:
                raise CommandFailed(CommandFault.UNKNOWN_COMMAND, f"no page command takes {type(parameters).__name__}")

    # ---- going somewhere

    async def _navigate(self, tab: Tab, parameters: Navigate) -> Result:
        url = parameters.url.strip()
        if "://" not in url and not url.lower().startswith(("about:", "data:")) and _looks_like_host(url):
            url = f"https://{url}"
        try:
            check_scheme(url)
        except Refused as refused:
            raise CommandFailed(CommandFault.REFUSED_ADDRESS, str(refused)) from refused
        if parameters.new_tab:
            tab = await self._tabs.open()
        return await self.go(tab, url)

    async def go(self, tab: Tab, url: str) -> Result:
        """Open `url` in `tab` and wait for it to load, at most 15 s after it began to arrive."""
        tab.refusal = None
        answer = await tab.call("Page.navigate", {"url": url}, timeout=600)
        failure = answer.get("errorText")
        if tab.refusal is None and failure and not answer.get("isDownload") and failure != "net::ERR_ABORTED":
            raise CommandFailed(CommandFault.BROWSER_FAILED, f"{place(url)[:200]} cannot be opened: {failure}")
        loader = answer.get("loaderId")
        complete = True
        if loader and not failure:
            complete = await tab.wait_loaded(loader, _LOAD_SECONDS)
        if tab.refusal is not None:
            raise CommandFailed(CommandFault.REFUSED_ADDRESS, tab.refusal)
        return {**await self._where(tab), "loaded": complete}

    async def _after_action(self, tab: Tab) -> Result:
        """Where the page is once the action's own consequence (a form sent, a link followed) has arrived."""
        # Through the page's own task queue and back: a navigation that the action causes has then been announced.
        settle = "new Promise(done => setTimeout(() => setTimeout(done)))"
        try:
            await tab.call("Runtime.evaluate", {"expression": settle, "awaitPromise": True}, timeout=5)
        except PageCrashed:
            raise
        except (CdpError, TimeoutError):
            pass  # the page left in the middle of the question, or its own timers do not run
        if tab.navigating:
            await tab.wait_loaded(None, _LOAD_SECONDS)
        return await self._where(tab)

    async def _where(self, tab: Tab) -> Result:
        if tab.navigating:
            return {"url": tab.url, "title": tab.title}
        expression = "({url: location.href, title: document.title.slice(0, 500)})"
        answer = await tab.call("Runtime.evaluate", {"expression": expression, "returnByValue": True})
        value = answer.get("result", {}).get("value") or {}
        url = str(value.get("url", tab.url))
        return {"url": tab.url if url.startswith("chrome-error:") else url, "title": str(value.get("title", tab.title))}

    # ---- elements

    async def _click(self, tab: Tab, parameters: Click) -> Result:
        world = await self._world(tab)
        element = await self._find(tab, world, parameters)
        await tab.call("DOM.scrollIntoViewIfNeeded", {"objectId": element})
        point = await self._middle(tab, element)
        if point is None:
            await self._js(tab, world, "el => el.click()", {"objectId": element})
            return await self._after_action(tab)
        x, y = point
        mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
        await tab.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
        await tab.call("Input.dispatchMouseEvent", {**mouse, "type": "mousePressed", "buttons": 1})
        await tab.call("Input.dispatchMouseEvent", {**mouse, "type": "mouseReleased"})
        return await self._after_action(tab)

    async def _input(self, tab: Tab, parameters: Input) -> Result:
        world = await self._world(tab)
        element = await self._find(tab, world, parameters)
        await tab.call("DOM.scrollIntoViewIfNeeded", {"objectId": element})
        types = await self._js(
            tab, world, "(el, text, clear) => berth.prepare(el, text, clear)",
            {"objectId": element}, {"value": parameters.text}, {"value": parameters.clear},
        )  # fmt: skip
        if types and parameters.text:
            await tab.call("Input.insertText", {"text": parameters.text})
        elif types and parameters.clear:
            await self._key(tab, "Delete", 46)
        if parameters.submit:
            await self._key(tab, "Enter", 13, "\r")
        return await self._after_action(tab)

    async def _select(self, tab: Tab, parameters: Select) -> Result:
        world = await self._world(tab)
        element = await self._find(tab, world, parameters)
        chosen = await self._js(
            tab, world, "(el, option) => berth.choose(el, option)", {"objectId": element}, {"value": parameters.option}
        )
        if chosen is None:
            raise CommandFailed(CommandFault.NOT_FOUND, f"the select box has no option {parameters.option[:200]!r}")
        return {**await self._after_action(tab), "selected": chosen}

    async def _scroll(self, tab: Tab, parameters: Scroll) -> Result:
        world = await self._world(tab)
        where: Message = {"value": None}
        if parameters.selector is not None:
            where = {"objectId": await self._find(tab, world, Element(selector=parameters.selector))}
        position = await self._js(tab, world, "(el, by) => berth.scroll(el, by)", where, {"value": parameters.by})
        return {**await self._where(tab), "scroll": position}

    async def _extract(self, tab: Tab, parameters: Extract) -> Result:
        world = await self._world(tab)
        found = await self._js(
            tab, world, "(selector, attribute, limit) => berth.extract(selector, attribute, limit)",
            {"value": parameters.selector}, {"value": parameters.attribute}, {"value": parameters.limit},
        )  # fmt: skip
        return {**await self._where(tab), **found}

    async def _state(self, tab: Tab) -> Result:
        world = await self._world(tab)
        listed = await self._js(tab, world, "limit => berth.list(limit)", {"value": _MAX_ELEMENTS})
        here = await self._where(tab)
        tab.url, tab.title = here["url"], here["title"]
        tabs = [
            {"id": each.target_id, "url": each.url[:2000], "title": each.title[:500], "active": each is tab}
            for each in self._tabs.all()[:100]
        ]
        return {**here, "tabs": tabs, **listed}

    # ---- pictures

    async def _screenshot(self, tab: Tab, parameters: Screenshot) -> Document:
        options: Message = {"format": "png"}
        if parameters.full_page:
            size = (await tab.call("Page.getLayoutMetrics"))["cssContentSize"]
            height = min(size["height"], _MAX_PICTURE_HEIGHT)
            clip = {"x": 0, "y": 0, "width": min(size["width"], _MAX_PICTURE_HEIGHT), "height": height, "scale": 1}
            options |= {"captureBeyondViewport": True, "clip": clip}
        answer = await tab.call("Page.captureScreenshot", options, timeout=60)
        return Document("image/png", _pieces(base64.b64decode(answer["data"])))

    async def _pdf(self, tab: Tab, parameters: Pdf) -> Document:
        options = {
            "landscape": parameters.landscape,
            "printBackground": parameters.background,
            "transferMode": "ReturnAsStream",
        }
        answer = await tab.call("Page.printToPDF", options, timeout=120)
        return Document("application/pdf", self._stream(tab, answer["stream"]))

    async def _stream(self, tab: Tab, handle: str) -> AsyncIterator[bytes]:
        try:
            while True:
                part = await tab.call("IO.read", {"handle": handle, "size": _CHUNK})
                if part["data"]:
                    yield base64.b64decode(part["data"]) if part.get("base64Encoded") else part["data"].encode()
                if part["eof"]:
                    return
        except binascii.Error as error:
            raise CdpError("the browser sent a broken document") from error
        finally:
            await tab.call("IO.close", {"handle": handle})

    # ---- small parts

    async def _world(self, tab: Tab) -> int:
        """Our own world in the page's main frame, the same one until the page goes elsewhere."""
        if tab.navigating:
            await tab.wait_loaded(None, _LOAD_SECONDS)
        answer = await tab.call("Page.createIsolatedWorld", {"frameId": tab.target_id, "worldName": "agent"})
        context = int(answer["executionContextId"])
        await tab.call("Runtime.evaluate", {"expression": _SCRIPT, "contextId": context})
        return context

    async def _find(self, tab: Tab, world: int, element: Element) -> str:
        """The remote object of an element, or `element_not_found`."""
        if (element.selector is None) == (element.index is None):
            raise CommandFailed(CommandFault.INVALID_PARAMETERS, "give either selector or index")
        handle = await self._js(
            tab, world, "(selector, index) => berth.find(selector, index)",
            {"value": element.selector}, {"value": element.index}, by_value=False,
        )  # fmt: skip
        if "objectId" not in handle:
            what = f"matches {element.selector!r}" if element.index is None else f"has the number {element.index}"
            raise CommandFailed(CommandFault.NOT_FOUND, f"no element {what} on this page; ask for `state` again")
        return str(handle["objectId"])

    async def _js(self, tab: Tab, world: int, function: str, *arguments: Message, by_value: bool = True) -> Any:
        answer = await tab.call(
            "Runtime.callFunctionOn",
            {"functionDeclaration": function, "executionContextId": world, "arguments": list(arguments),
             "returnByValue": by_value, "userGesture": True},
        )  # fmt: skip
        if "exceptionDetails" in answer:
            text = answer["exceptionDetails"].get("exception", {}).get("description", "the page's script failed")
            raise CommandFailed(CommandFault.INVALID_PARAMETERS, text.splitlines()[0][:500])
        return answer["result"].get("value") if by_value else answer["result"]

    async def _middle(self, tab: Tab, element: str) -> tuple[float, float] | None:
        """The middle of the element's first visible box, None when it has none."""
        try:
            quads = (await tab.call("DOM.getContentQuads", {"objectId": element}))["quads"]
        except PageCrashed:
            raise
        except CdpError:
            return None  # Chromium's answer for an element without a box
        for quad in quads:
            xs, ys = quad[0::2], quad[1::2]
            if (max(xs) - min(xs)) * (max(ys) - min(ys)) >= 1:
                return sum(xs) / 4, sum(ys) / 4
        return None

    async def _key(self, tab: Tab, key: str, code: int, text: str = "") -> None:
        press = {"key": key, "code": key, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}
        await tab.call("Input.dispatchKeyEvent", {**press, "type": "keyDown", **({"text": text} if text else {})})
        await tab.call("Input.dispatchKeyEvent", {**press, "type": "keyUp"})


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]
        await asyncio.sleep(0)


def _looks_like_host(text: str) -> bool:
    head = text.split("/", 1)[0].split("?", 1)[0]
    name, _, port = head.partition(":")
    return "." in name and " " not in head and (not port or port.isdigit())
