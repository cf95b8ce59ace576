"""The agent's main process: starts its parts side by side, watches them, and stops them in order.

How it ends is told by its exit code (API contract 4), so that whoever runs it knows whether Berth asked for it.
"""

import asyncio
import contextlib
import ctypes
import importlib
import json
import math
import os
import shutil
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from agent_image.agent import family, memory
from agent_image.agent.addresses import AddressPolicy
from agent_image.agent.browser import Browser
from agent_image.agent.config import BadEnvironment, Config
from agent_image.agent.desktop import Desktop
from agent_image.agent.gateway import Gateway
from agent_image.agent.journal import log
from agent_image.agent.part import Part, PartFailed
from agent_image.agent.pipe import CdpError, CdpPipe
from agent_image.agent.repairs import MAX_REPAIRS, Death, GiveUp, Repairs, Replace
from core import launch
from core.domain.excerpts import with_places
from core.domain.wire import AgentExit, BrowserEnd

if TYPE_CHECKING:
    from agent_image.agent.services import Services

_STOP_SECONDS = 25.0
# Screen, doors and last words, in the time of an order.
_AFTER_SAVING_SECONDS = 3.0
# Cookies go before punctuality: whoever ordered it kills when he must.
_LEAST_STEP_SECONDS = 4.0
_ORPHAN_SECONDS = 5
_PR_SET_DUMPABLE = 4
_TERMINATION_LOG = Path("/dev/termination-log")


@dataclass(frozen=True)
class Ending:
    """Why the agent ends, and how long it may take; of an order to save and leave, `until` when on the loop's clock."""

    code: int
    reason: str
    seconds: float = _STOP_SECONDS
    until: float = math.inf


class Supervisor:
    """One agent. `run` returns its exit code once nothing of it is left."""

    def __init__(self, config: Config) -> None:
        self._config = config
        try:
            policy = AddressPolicy.of(config.browser.allowed_hosts)
        except ValueError as error:
            raise BadEnvironment(str(error)) from error
        self._sockets = _folders(config)
        self._oom = memory.OomWatch()
        self._gateway = Gateway(policy)
        settings = config.browser
        self._desktop = Desktop(config.work, self._sockets, settings.width, settings.height)
        # A container's files are the image's and the user's own; elsewhere they are of the machine and all who use it.
        self._browser = Browser(settings, config.profile, config.work, CdpPipe(), file_dialogs=config.own_network)
        self._services: Services | None = None
        self._repairs = Repairs()
        self._repairing: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        self._guard_process()
        starting = asyncio.create_task(self._start(), name="start")
        orphans = asyncio.create_task(self._reap(), name="orphans")
        first: set[asyncio.Future[Any]] = {starting, self._ending}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not self._ending.done() and (error := starting.exception()) is not None:
            self._end(self._failed(error))
        ending = await self._ending
        log.info("stopping", code=ending.code, reason=ending.reason)
        tasks = [task for task in (starting, orphans, self._repairing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stop(ending)
        leave_word(self._config.work, ending.code, ending.reason)
        log.info("stopped", code=ending.code)
        return ending.code

    # ---- start

    async def _start(self) -> None:
        loading = asyncio.create_task(asyncio.to_thread(importlib.import_module, "agent_image.agent.services"))
        await asyncio.gather(self._desktop.start(_environment(self._config.work)), self._gateway.start())
        browser = asyncio.create_task(self._open_browser())
        try:
            self._services = await self._open_services(loading)
            await browser
        finally:
            browser.cancel()
        await self._services.ready()
        for part in self._parts():
            self._watch(part)

    def _watch(self, part: Part) -> None:
        part.exited.add_done_callback(lambda done: self._part_ended(part))

    async def _open_browser(self) -> None:
        env = self._desktop.environment(_environment(self._config.work))
        await self._browser.start(env, self._gateway.port)

    async def _open_services(self, loading: "asyncio.Task[object]") -> "Services":
        await loading
        from agent_image.agent.services import Parts, Services

        parts = Parts(self._config, self._desktop, self._browser, self._gateway, self._oom)
        self._services = Services(parts, self._ordered, self._zombie)
        await self._services.listen()
        return self._services

    def _guard_process(self) -> None:
        memory.lower_own_score()
        launch.become_subreaper()
        # Our memory and first environment hold the token; the browser, which runs as the same user, must not read them.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(
                number, self._end, Ending(AgentExit.TOLD_BY_HOST, f"signal {signal.Signals(number).name}")
            )

    def _parts(self) -> list[Part]:
        browser = [self._browser.part] if self._browser.part is not None else []
        return [*browser, *self._desktop.parts()]

    # ---- repair

    async def _repair(self, services: "Services", death: Death, address: str) -> None:
        """The browser alone has ended: put another in its place, on the same profile and the same desktop."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        log.warning("browser.lost", end=death.end, words=death.words)
        try:
            await services.browser_gone(death)
            last_words = await self._browser.bury({part.pid for part in self._desktop.parts()})
            self._oom.reset()
            await self._open_browser()
            await services.browser_back(address)
        except (PartFailed, CdpError, TimeoutError, OSError) as error:
            part = self._browser.part
            hungry = part is not None and await part.wait(1) and self._killed_for_memory(part)
            code = AgentExit.PART_OUT_OF_MEMORY if hungry else AgentExit.PART_CRASHED
            self._lose(Ending(code, f"the browser did not come back: {error}"))
            return
        seconds = loop.time() - began
        log.info(
            "browser.reopened", end=death.end, seconds=round(seconds, 3), last_words=with_places(last_words)[-1000:]
        )
        services.tell_reopened(death, last_words, seconds)
        if self._browser.part is not None:
            self._watch(self._browser.part)

    def _repair_over(self, repair: asyncio.Task[None]) -> None:
        if not repair.cancelled() and (error := repair.exception()) is not None:
            self._lose(self._failed(error))

    def _death_of(self, part: Part) -> Death:
        code = part.process.returncode or 0
        if code == 0:
            return Death(BrowserEnd.CLOSED, "its user had closed it")
        if self._killed_for_memory(part):
            return Death(BrowserEnd.OUT_OF_MEMORY, "it was killed for memory")
        how = f"ended with {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
        return Death(BrowserEnd.CRASHED, f"it crashed ({how})")

    # ---- ends

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    def _ordered(self, reason: str, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        self._end(Ending(AgentExit.ORDERED, f"ordered: {reason}", seconds, until))

    def _zombie(self) -> None:
        self._end(Ending(AgentExit.ORDERED, "token refused: this attempt is over for Berth"))

    def _part_ended(self, part: Part) -> None:
        if self._ending.done():
            return
        if part is self._browser.part and self._services is not None:
            death = self._death_of(part)
            match self._repairs.decide(death, self._services.address(), asyncio.get_running_loop().time()):
                case Replace(address=address):
                    self._repairing = asyncio.create_task(self._repair(self._services, death, address), name="repair")
                    self._repairing.add_done_callback(self._repair_over)
                    return
                case GiveUp():
                    log.warning("browser.given_up", repairs=MAX_REPAIRS)
                case other:
                    assert_never(other)
        if self._killed_for_memory(part):
            self._lose(Ending(AgentExit.PART_OUT_OF_MEMORY, f"the {part.name} was killed for memory"))
        else:
            code = part.process.returncode
            self._lose(Ending(AgentExit.PART_CRASHED, f"the {part.name} ended with {code}: {part.last_words()[-300:]}"))

    def _lose(self, ending: Ending) -> None:
        self._end(ending)
        if self._services is not None:
            self._services.channel.status("part_lost", self._ending.result().reason)

    def _killed_for_memory(self, part: Part) -> bool:
        return part.killed and self._oom.rose()

    def _failed(self, error: BaseException) -> Ending:
        if isinstance(error, PartFailed):
            if error.killed and self._oom.rose():
                return Ending(AgentExit.PART_OUT_OF_MEMORY, str(error))
            return Ending(AgentExit.CANNOT_START if error.permanent else AgentExit.PART_CRASHED, str(error))
        if isinstance(error, (OSError, TimeoutError, CdpError)) or type(error).__name__ == "PortTaken":
            return Ending(
                AgentExit.PART_CRASHED, f"start failed: {error}" if str(error) else f"start failed: {error!r}"
            )
        return Ending(AgentExit.CANNOT_START, f"start failed: {error!r}")

    async def _stop(self, ending: Ending) -> None:
        """Cookies first: the browser is closed as soon as nothing uses it, the rest follows.

        What is large comes after it and has the time that is left, so that it can cost nobody a login.
        """
        services, loop = self._services, asyncio.get_running_loop()
        # An order says when the agent is killed: what comes after these has a part of the time, whatever they take.
        steps = [
            ("services", services.stop(ending.seconds) if services else None, 16.0, 1 / 2),
            ("browser", self._browser.close(), 18.0, 3 / 4),
            ("saving", self._save(services, ending) if services and ending.until < math.inf else None, math.inf, 1),
            ("desktop", self._desktop.stop(), 8.0, 1),
            ("gateway", self._gateway.stop(), 3.0, 1),
            ("doors", services.close() if services else None, 6.0, 1),
        ]
        for name, step, most, share in steps:
            if step is None:
                continue
            seconds = min(most, max((ending.until - loop.time()) * share, _LEAST_STEP_SECONDS))
            try:
                async with asyncio.timeout(seconds):
                    await step
            except Exception as error:  # owner: the exit code is decided; whatever fails here must not keep the rest
                log.error("stop.step_failed", step=name, error=repr(error))
        if self._sockets != self._config.work:
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def _save(self, services: "Services", ending: Ending) -> None:
        spare = min(_AFTER_SAVING_SECONDS, ending.seconds / 4)
        await services.save(ending.reason.removeprefix("ordered: "), ending.until - spare)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(_ORPHAN_SECONDS)
            ours = {part.pid for part in self._parts()}
            # While a part is being started its pid is not known yet.
            if self._services is not None and (self._repairing is None or self._repairing.done()):
                family.reap_orphans(ours)


def _folders(config: Config) -> Path:
    """Make the profile and a clean scratch folder; raises `BadEnvironment`."""
    scratch = config.work / "tmp"
    try:
        for folder in (config.profile, config.work):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in (scratch, config.work / "downloads", config.work / "files"):
            folder.mkdir(exist_ok=True, mode=0o700)
        (config.profile / ".writable").touch()
        (config.profile / ".writable").unlink()
        os.chdir(config.work)  # browser-use reads a file .env from where it stands
        os.environ.update(TMPDIR=str(scratch), HOME=str(config.work))  # a numeric user has no home of its own
        return config.socket_folder()
    except OSError as error:
        raise BadEnvironment(f"{error.filename}: {error.strerror}; the agent must be able to write there") from error


def _environment(work: Path) -> dict[str, str]:
    """What the parts see of our environment: no tokens, and their own scratch folder."""
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "FONTCONFIG_PATH") if name in os.environ}
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        **keep,
        "HOME": str(work),
        "TMPDIR": str(work / "tmp"),
        "XDG_RUNTIME_DIR": str(work),
        "DBUS_SESSION_BUS_ADDRESS": "/dev/null",
    }


def leave_word(work: Path | None, code: int, reason: str) -> None:
    """Say in one JSON line why the agent ended: for Kubernetes in its termination log, for a host in its folder."""
    line = json.dumps({"code": code, "reason": reason[:1000], "at": datetime.now(UTC).isoformat()}) + "\n"
    places = [_TERMINATION_LOG] if _TERMINATION_LOG.exists() else []
    if work is not None:
        places.append(work / "exit.json")
    for place in places:
        try:
            place.write_text(line, encoding="utf-8")
        except OSError as error:
            log.warning("exit.not_written", place=str(place), error=str(error))
