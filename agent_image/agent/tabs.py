"""The browser's pages as we see them over the pipe: which there are, which is in front, what closes or crashes.

Every page is held at its start until it is watched, so no page exists in which a closed address would open.
"""

import asyncio
import base64
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from agent_image.agent.addresses import Refused, check_scheme
from agent_image.agent.gateway import Gateway, refusal_page
from agent_image.agent.journal import log
from agent_image.agent.pipe import CdpError, CdpPipe, Message, PipeClosed
from core.domain.excerpts import place
from core.domain.wire import CommandFault

_NEW_TAB_PAGES = ("chrome://newtab", "chrome://new-tab-page", "about:newtab", "chrome-search://")
_ERROR_PAGES = "chrome-error://"


class PageCrashed(CdpError):
    """The page's process died."""


class Tab:
    """One page. Its main frame's id is its target's id."""

    def __init__(self, pipe: CdpPipe, target_id: str, session: str, order: int) -> None:
        self._pipe = pipe
        self.target_id = target_id
        self.session = session
        self.order = order
        self.url = ""
        self.title = ""
        self.crashed = False
        self.dialog = False
        self.dialogs: deque[dict[str, str]] = deque(maxlen=10)
        self.refusal: str | None = None
        self.navigating = False
        self.epoch = 0
        """Goes up whenever the page begins to become another one."""
        self._commits: deque[str] = deque(maxlen=16)
        self._loaded = ""
        self._changed = asyncio.Event()

    async def call(self, method: str, params: Message | None = None, *, timeout: float = 20) -> Message:
        if self.crashed:
            raise PageCrashed("the page has crashed")
        try:
            return await self._pipe.call(method, params, session=self.session, timeout=timeout)
        except PipeClosed:
            if self.crashed:
                raise PageCrashed("the page crashed during the command") from None
            raise

    def committed(self, loader: str) -> None:
        if not self._commits or self._commits[-1] != loader:
            self._commits.append(loader)
            self.epoch += 1
        self.navigating = False
        self.touch()

    def loaded(self, loader: str) -> None:
        self._loaded = loader
        self.touch()

    def touch(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_loaded(self, loader: str | None, seconds: float) -> bool:
        """True when the document of `loader` (or what replaced it) has fired `load` within `seconds`."""

        def done() -> bool:
            if self.crashed or not self._commits:
                return self.crashed
            came = loader is None or loader in self._commits
            return came and not self.navigating and self._loaded == self._commits[-1]

        try:
            async with asyncio.timeout(seconds):
                while not done():
                    await self._changed.wait()
        except TimeoutError:
            return False
        if self.crashed:
            raise PageCrashed("the page crashed while loading")
        return True


class Tabs:
    """Follows all pages. `on_crash` is awaited with a page whose process died."""

    def __init__(self, pipe: CdpPipe, gateway: Gateway, on_crash: Callable[[Tab, str], Awaitable[None]]) -> None:
        self._pipe = pipe
        self._gateway = gateway
        self._on_crash = on_crash
        self._tabs: dict[str, Tab] = {}
        self._by_target: dict[str, Tab] = {}
        self._count = 0
        self._work: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._opening = asyncio.Lock()
        self._front = ""
        self.loss: tuple[CommandFault, str] | None = None
        """Why there are no pages, while another browser is to come: what commands end with, and in words."""
        self.commanding = 0
        """How many commands of ours run now: only then are a page's dialogs answered without asking a person."""

    async def start(self) -> None:
        """Watch every page there is and will be."""
        self._tabs.clear()
        self._by_target.clear()
        self.loss = None
        self._pipe.on_root("Target", self._on_root)
        watched = [{"type": "page"}]
        await self._pipe.call("Target.setDiscoverTargets", {"discover": True, "filter": watched})
        await self._pipe.call(
            "Target.setAutoAttach",
            {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True, "filter": watched},
        )

    def lost(self, fault: CommandFault, words: str) -> None:
        """The browser has ended, and all pages with it: whoever waits for one of them waits no longer."""
        self.loss = (fault, words)
        self.stop()
        for tab in self._tabs.values():
            tab.crashed = True
            tab.touch()
        self._touch()

    def cut_off(self) -> bool:
        """Whether the browser is gone, though nobody may have said why yet."""
        return self.loss is not None or self._pipe.closed.is_set()

    def address(self) -> str:
        """Where the page is that was last found in front, else the newest; "" when that is no place of the web."""
        tabs = self.all()
        front = self._by_target.get(self._front)
        tab = front if front in tabs else tabs[-1] if tabs else None
        return tab.url if tab is not None and tab.url.startswith(("http://", "https://")) else ""

    def stop(self) -> None:
        for task in list(self._work):
            task.cancel()

    def all(self) -> list[Tab]:
        return sorted((tab for tab in self._tabs.values() if not tab.crashed), key=lambda tab: tab.order)

    async def active(self) -> Tab:
        """The page that is in front on the screen; opens one when there is none."""
        tabs = self.all()
        if len(tabs) > 1:
            shown = await asyncio.gather(*(self._shown(tab) for tab in tabs))
            tabs = [tab for tab, seen in zip(tabs, shown, strict=True) if seen] or tabs
        tab = tabs[-1] if tabs else await self._ensure()
        self._front = tab.target_id
        return tab

    async def open(self) -> Tab:
        """A new blank page in front."""
        window = not self._tabs  # the last one took its window with it
        answer = await self._pipe.call("Target.createTarget", {"url": "about:blank", "newWindow": window})
        async with asyncio.timeout(10):
            while answer["targetId"] not in self._by_target:
                if self.cut_off():
                    raise PipeClosed("the browser is gone")
                await self._changed.wait()
        return self._by_target[answer["targetId"]]

    async def _ensure(self) -> Tab:
        """Some page, a fresh one only if there is none: several may find out at once that there is none."""
        async with self._opening:
            tabs = self.all()
            return tabs[-1] if tabs else await self.open()

    async def replace(self, crashed: Tab) -> None:
        """Take a crashed page away; a fresh one comes in its place when it was the last."""
        await self._ensure()
        await self._pipe.call("Target.closeTarget", {"targetId": crashed.target_id})

    async def _shown(self, tab: Tab) -> bool:
        if tab.dialog:
            return True
        try:
            answer = await tab.call(
                "Runtime.evaluate", {"expression": "document.visibilityState", "returnByValue": True}, timeout=1
            )
        except (CdpError, TimeoutError):
            return False
        return bool(answer.get("result", {}).get("value") == "visible")

    # ---- events

    def _on_root(self, message: Message) -> None:
        params = message["params"]
        match message["method"]:
            case "Target.attachedToTarget":
                self._attached(params["sessionId"], params["targetInfo"])
            case "Target.detachedFromTarget":
                self._detached(params["sessionId"])
            case "Target.targetInfoChanged":
                tab = self._by_target.get(params["targetInfo"]["targetId"])
                if tab is not None:
                    tab.url, tab.title = params["targetInfo"]["url"], params["targetInfo"]["title"]
                    self._leave_closed_page(tab, tab.url)
            case "Target.targetCrashed":
                tab = self._by_target.get(params["targetId"])
                if tab is not None:
                    self._crashed(tab, f"{params.get('status', '')} {params.get('errorCode', '')}".strip())
            case _:
                pass

    def _attached(self, session: str, info: dict[str, Any]) -> None:
        if info["type"] != "page":
            return
        self._count += 1
        tab = Tab(self._pipe, info["targetId"], session, self._count)
        tab.url, tab.title = info["url"], info["title"]
        self._tabs[session] = self._by_target[info["targetId"]] = tab
        self._pipe.route(session, lambda message: self._on_page(tab, message))
        for method, params in (
            ("Fetch.enable", {"patterns": [{"urlPattern": "*", "resourceType": "Document"}]}),
            ("Page.enable", {}),
            ("Page.setLifecycleEventsEnabled", {"enabled": True}),
            ("Inspector.enable", {}),
            ("Runtime.runIfWaitingForDebugger", {}),
        ):
            self._tell(tab, method, params)
        self._leave_closed_page(tab, tab.url)
        self._touch()

    def _detached(self, session: str) -> None:
        tab = self._tabs.pop(session, None)
        if tab is None:
            return
        self._by_target.pop(tab.target_id, None)
        tab.epoch += 1
        self._pipe.unroute(session)
        tab.touch()
        self._touch()

    def _on_page(self, tab: Tab, message: Message) -> None:
        params = message["params"]
        match message["method"]:
            case "Fetch.requestPaused":
                self._spawn(self._decide(tab, params))
            case "Page.frameStartedNavigating" if params["frameId"] == tab.target_id:
                if "sameDocument" not in params.get("navigationType", ""):
                    tab.navigating = True
                    tab.epoch += 1
                self._leave_closed_page(tab, params["url"])
            case "Page.frameRequestedNavigation" if params["frameId"] == tab.target_id:
                tab.navigating = tab.navigating or params.get("disposition") == "currentTab"
            case "Page.frameNavigated" if params["frame"]["id"] == tab.target_id:
                tab.committed(params["frame"]["loaderId"])
                # A page that a closed address shows must not be reached by its error page's name either.
                if not params["frame"]["url"].startswith(_ERROR_PAGES):
                    tab.url = params["frame"]["url"] + params["frame"].get("urlFragment", "")
            case "Page.frameStoppedLoading" if params["frameId"] == tab.target_id:
                tab.navigating = False  # also a navigation that became a download or was given up
                tab.touch()
            case "Page.lifecycleEvent" if params["frameId"] == tab.target_id:
                if params["name"] == "commit":  # a fresh page's first document says this, but not frameNavigated
                    tab.committed(params["loaderId"])
                elif params["name"] == "load":
                    tab.loaded(params["loaderId"])
            case "Page.javascriptDialogOpening":
                self._dialog(tab, params)
            case "Page.javascriptDialogClosed":
                tab.dialog = False
            case "Inspector.targetCrashed":
                self._crashed(tab, "")
            case _:
                pass

    # ---- closed addresses

    async def _decide(self, tab: Tab, params: dict[str, Any]) -> None:
        """Let one page request pass, or answer it with a page that says why not."""
        request, url = params["requestId"], params["request"]["url"]
        try:
            await self._gateway.check(url)
        except Refused as refused:
            if params.get("frameId") == tab.target_id:
                tab.refusal = str(refused)
            log.info("page.refused", url=place(url)[:200])
            body = base64.b64encode(refusal_page("Address refused", str(refused)).encode()).decode()
            headers = [
                {"name": "Content-Type", "value": "text/html; charset=utf-8"},
                {"name": "Cache-Control", "value": "no-store"},
            ]
            answer = {"requestId": request, "responseCode": 403, "responseHeaders": headers, "body": body}
            self._tell(tab, "Fetch.fulfillRequest", answer)
        except (OSError, TimeoutError, UnicodeError):
            self._tell(tab, "Fetch.failRequest", {"requestId": request, "errorReason": "NameNotResolved"})
        else:
            self._tell(tab, "Fetch.continueRequest", {"requestId": request})

    def _leave_closed_page(self, tab: Tab, url: str) -> None:
        """Pages of the browser itself (chrome://, devtools://) are not requests that could be held: leave them at once.

        They show nothing of another agent. file:// never gets here with content, see `_decide`.
        """
        if not url or url.startswith(_ERROR_PAGES):
            return
        try:
            check_scheme(url)
        except Refused as refused:
            if url.startswith(("file:", "view-source:")):
                return  # held and answered as a request, where its page can be read
            if not url.startswith(_NEW_TAB_PAGES):
                tab.refusal = str(refused)
                log.info("page.refused", url=place(url)[:200])
            self._tell(tab, "Page.stopLoading", {})
            self._tell(tab, "Page.navigate", {"url": "about:blank"})

    # ---- dialogs and crashes

    def _dialog(self, tab: Tab, params: dict[str, Any]) -> None:
        tab.dialog = True
        if self.commanding:
            tab.dialogs.append({"type": params["type"], "message": params["message"][:500]})
            self._tell(tab, "Page.handleJavaScriptDialog", {"accept": params["type"] in {"alert", "beforeunload"}})

    def dismiss_dialog(self, tab: Tab) -> None:
        """Close a dialog that stands in the way of a command."""
        if tab.dialog:
            self._tell(tab, "Page.handleJavaScriptDialog", {"accept": False})

    def _crashed(self, tab: Tab, how: str) -> None:
        if tab.crashed:
            return
        tab.crashed = True
        tab.touch()
        self._pipe.unroute(tab.session)
        self._spawn(self._tell_crash(tab, how))

    async def _tell_crash(self, tab: Tab, how: str) -> None:
        await self._on_crash(tab, how)

    # ---- small parts

    def _tell(self, tab: Tab, method: str, params: Message) -> None:
        self._pipe.send({"method": method, "params": params}, tab.session, lambda answer: None)

    def _touch(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("tabs.work_failed", error=repr(task.exception()))
