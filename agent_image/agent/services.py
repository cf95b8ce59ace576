"""Everything of an agent that needs more than the standard library: built while the browser starts."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from agent_image.agent import cgroup, memory, traffic
from agent_image.agent.api import InternalApi
from agent_image.agent.artefacts import ArtefactStore
from agent_image.agent.bridge import Bridge
from agent_image.agent.browser import Browser
from agent_image.agent.channel import Channel
from agent_image.agent.commands import CommandFailed, PageCommands
from agent_image.agent.config import Config
from agent_image.agent.desktop import Desktop
from agent_image.agent.doors import Doorkeeper
from agent_image.agent.downloads import Downloads
from agent_image.agent.executor import Executor
from agent_image.agent.gateway import Gateway
from agent_image.agent.journal import log, process_age
from agent_image.agent.outbox import Outbox
from agent_image.agent.packing import DOWNLOADS, FILES
from agent_image.agent.pipe import CdpError
from agent_image.agent.refusals import heed_refusal
from agent_image.agent.repairs import Death
from agent_image.agent.saving import Saver
from agent_image.agent.tabs import Tab, Tabs
from agent_image.agent.tasks import TaskRunner
from agent_image.agent.viewer import Viewer
from core.domain.excerpts import place
from core.domain.wire import BROWSER_REOPENED, CommandFault, Health

_MEMORY_SECONDS = 5
_MEASURED_SECONDS = 1
_PAGE_AGAIN_SECONDS = 2


class PortTaken(Exception):
    """An address the agent is to listen on is not free."""


@dataclass(frozen=True)
class Parts:
    """What the supervisor has started, or is starting."""

    config: Config
    desktop: Desktop
    browser: Browser
    gateway: Gateway
    oom: memory.OomWatch


class Services:
    """The agent's doors and what is behind them. `shutdown(reason, seconds)` and `refused()` go to the supervisor."""

    def __init__(self, parts: Parts, shutdown: Callable[[str, float], None], refused: Callable[[], None]) -> None:
        config = parts.config
        self._parts = parts
        self._obstacle = "the agent is not ready yet"
        self._stopping = self._repairing = False
        self._memory = 0
        self._measuring: asyncio.Task[None] | None = None
        self._measure_again = 0.0
        self._runners: list[web.AppRunner] = []
        self._background: set[asyncio.Task[None]] = set()
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {config.token}"}, middlewares=(heed_refusal,)
        )
        self.outbox = Outbox()
        self._tabs = Tabs(parts.browser.pipe, parts.gateway, self._crashed)
        self._downloads = Downloads(parts.browser.pipe, config.work / DOWNLOADS, config.downloads_mib << 20, self._tell)
        self._pages = PageCommands(self._tabs, parts.oom)
        folders = config.work / DOWNLOADS, config.work / FILES
        self._bridge = Bridge(parts.browser.pipe, folders, self._downloads.set_again)
        self._tasks = TaskRunner(config.model, self._bridge, config.work)
        store = ArtefactStore(self._http, config.backend_url, config.work)
        self._saver = Saver(config, store, self._tell)
        self._open_task: dict[str, Any] | None = None
        self._executor = Executor(self._pages, self._tasks, store, self._tell, lambda: self._obstacle)
        doors = Doorkeeper(config.token)
        self._viewer = Viewer(doors, parts.desktop.vnc, config.novnc_web, lambda: self._tell("viewer_active"))
        self._api = InternalApi(doors, self._executor, self.health, lambda: self._repairing)
        self.channel = Channel(config, self._http, self._executor, self.outbox, self.health, shutdown, refused)

    async def listen(self) -> None:
        """Open the doors and the channel; commands are refused until `ready`."""
        config = self._parts.config
        for app, port, name in (
            (self._api.app(), config.api_port, "api"),
            (self._viewer.app(), config.novnc_port, "novnc"),
        ):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            self._runners.append(runner)
            await runner.setup()
            try:
                await web.TCPSite(runner, config.host, port).start()
            except OSError as error:
                raise PortTaken(f"the {name} port {config.host}:{port} cannot be used: {error.strerror}") from error
            log.info("listening", what=name, address=runner.addresses[0])
        await self._bridge.start()
        self._run(self.channel.run())

    async def ready(self) -> None:
        """Take the started browser over, tell Berth, load what is heavy."""
        await self._take_over()
        self._obstacle = ""
        age = process_age()
        self.channel.tell("ready", seconds=round(age, 3))
        log.info("ready", seconds=round(age, 3), browser=self._parts.browser.version)
        if self._parts.config.browser.start_url != "about:blank":
            self._run(self._open_start_page())
        if self._parts.config.model is not None:
            self._tasks.preload()

    def address(self) -> str:
        """What the page in front shows, "" when it is no place of the web."""
        return self._tabs.address()

    async def browser_gone(self, death: Death) -> None:
        """The browser has ended: nobody waits for it any longer, and commands are refused until another is there."""
        words = f"the browser is gone: {death.words}"
        self._obstacle, self._repairing = f"{words}; another is being started", True
        self._tabs.lost(death.fault, words)
        self._tasks.browser_gone(death.fault, words)
        await self._bridge.dismiss()

    async def browser_back(self, address: str) -> None:
        """Another browser runs in its place; it opens `address`, unless that is ""."""
        await self._take_over()
        if address:
            await self._open_again(address)
        self._obstacle, self._repairing = "", False

    def tell_reopened(self, death: Death, last_words: str, seconds: float) -> None:
        self._tell(BROWSER_REOPENED, death.told(last_words), end=death.end, seconds=round(seconds, 3))

    async def _take_over(self) -> None:
        await self._tabs.start()
        await self._downloads.start()

    async def health(self) -> Health:
        """The agent's own judgement, right now."""
        parts = self._parts
        if self._stopping:
            status, detail = "stopping", ""
        elif self._obstacle:
            status, detail = "starting", self._obstacle
        else:
            dead = [part.name for part in parts.desktop.parts() if not part.running]
            alive = await parts.browser.alive()
            status = "healthy" if alive and not dead else "unhealthy"
            detail = ", ".join([*dead, *([] if alive else ["the browser does not answer"])])
        alone = parts.config.own_network
        spent = cgroup.consumed() if alone else cgroup.Consumed(None, None)
        return Health(
            status=status,
            uptime=round(process_age(), 3),
            memory=await self._used(),
            network=traffic.carried() if alone else None,
            cpu_seconds=spent.cpu_seconds,
            peak_memory_bytes=spent.peak_memory_bytes,
            browser_active=not self._obstacle and parts.browser.part is not None and parts.browser.part.running,
            channel=self.channel.state,
            task_running=self._tasks.running,
            viewers=self._viewer.count(),
            detail=detail,
        )

    async def stop(self, seconds: float) -> None:
        """Refuse work, end the task, close viewers, let browser-use go. The browser itself is the supervisor's."""
        self._stopping = True
        # Before it is ended: what it has done is still told then, by `save`.
        self._open_task = self._tasks.checkpoint()
        self._tasks.stop(CommandFault.SHUTTING_DOWN, "the agent is stopping")
        await self._executor.close(min(6.0, seconds / 4))
        await self._viewer.close()
        await self._tasks.close()
        self._tabs.stop()

    async def save(self, reason: str, until: float) -> None:
        """After the browser is gone, with its cookies safe and its downloads finished: all else that is to be kept."""
        await self._saver.save(self._open_task, reason, until)

    async def close(self) -> None:
        """The last messages, then the doors."""
        if self.channel.state == "open":
            await self.channel.farewell()
            await self.channel.drained(2)
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._bridge.stop()
        for runner in self._runners:
            await runner.cleanup()
        await self._http.close()

    def _tell(self, status: str, detail: str = "", **data: object) -> None:
        self.channel.status(status, detail, **data)

    async def _crashed(self, tab: Tab, how: str) -> None:
        """A page died: its task would wait for ever, so end it, say why, and give the person a fresh page."""
        oom = self._parts.oom.rose()
        self._parts.oom.reset()
        status = "page_oom" if oom else "page_crashed"
        log.warning("page.crashed", status=status, how=how, url=place(tab.url)[:200])
        fault = CommandFault.PAGE_OUT_OF_MEMORY if oom else CommandFault.BROWSER_FAILED
        self._tasks.stop(fault, "the page ran out of memory" if oom else "the page crashed")
        self._tell(status, f"{place(tab.url)[:500]} {how}".strip())
        try:
            await self._tabs.replace(tab)
        except (CdpError, TimeoutError) as error:
            log.error("page.not_replaced", error=str(error))

    async def _open_start_page(self) -> None:
        try:
            await self._pages.go(await self._tabs.active(), self._parts.config.browser.start_url)
        except (CommandFailed, CdpError, TimeoutError) as error:
            log.warning("start_page.failed", error=str(error)[:300])
            self._tell("start_page_failed", str(error))

    async def _open_again(self, address: str) -> None:
        """Begin to open the page that was there; what is slow comes later, what fails is seen on the screen."""
        try:
            async with asyncio.timeout(_PAGE_AGAIN_SECONDS):
                await self._pages.go(await self._tabs.active(), address)
        except (CommandFailed, CdpError, TimeoutError) as error:
            log.info("page.not_there_again", error=str(error)[:300])

    async def _used(self) -> int:
        """Measured at most every few seconds. Whoever asks for the agent's health waits for it a moment, then takes the
        last known: that a number is late is no reason to be taken for dead."""
        if self._measuring is None or (self._measuring.done() and time.monotonic() >= self._measure_again):
            self._measuring = asyncio.create_task(self._measure())
        await asyncio.wait([self._measuring], timeout=_MEASURED_SECONDS)
        return self._memory

    async def _measure(self) -> None:
        self._memory = await asyncio.to_thread(memory.used)
        self._measure_again = time.monotonic() + _MEMORY_SECONDS

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("service.broke", task=task.get_name(), error=repr(error))
