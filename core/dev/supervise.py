"""Keeps one child process running: starts it, waits until it is ready, starts it again when it dies, stops it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from core import launch
from core.dev.failure import CannotStart
from core.dev.logfile import LogFile

_ASK_EVERY = 0.02
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_STEADY = 10.0  # a child that lived this long was well: the next pause is short again

_PREFIX = "berth: "

Ready = Callable[[int], Awaitable[bool]]


@dataclass(frozen=True)
class Part:
    """One program of the stack. Times are seconds."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Ready | None = None  # asked with the child's pid until it says yes; None: ready is having exited with 0
    after: Sequence[str] = ()  # parts that must be ready before this one starts, and stop after it
    prepare: Callable[[], Awaitable[None]] | None = None  # before every start
    account: launch.Account | None = None
    reach: Sequence[Path] = ()
    cwd: Path = field(default_factory=Path.cwd)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10
    ready_seconds: float = 60
    attempts: int = 2  # how often it may fail before it has been ready once


class Supervised:
    """A part with its process; `ready` says whether that one serves.

    `changed` hears the new pid, or None, whenever a process begins or ends.
    """

    def __init__(
        self,
        part: Part,
        log: LogFile,
        announce: Callable[[str], None],
        changed: Callable[[str, int | None], None],
    ) -> None:
        self.part = part
        self.pid: int | None = None
        self.ready = False
        self._log = log
        self._announce = announce
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start it and return when it is ready; from then on it is started again whenever it ends.

        Raises `CannotStart` with the last line it printed when it does not become ready.
        """
        pause = _FIRST_PAUSE
        for attempt in range(1, self.part.attempts + 1):
            try:
                process = await self._spawn()
            except (OSError, launch.CannotConfine) as error:
                raise CannotStart(f"{self.part.name} did not start: {error}") from error
            if await self._becomes_ready(process):
                if self.part.ready is not None:
                    self._keeper = asyncio.create_task(self._keep(process), name=f"keep {self.part.name}")
                return
            if attempt < self.part.attempts and not self._stopping:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)
        # The line that tells of it begins with the same word.
        said = self._log.last_line().removeprefix(_PREFIX)
        raise CannotStart(f"{self.part.name} did not start{': ' + said if said else ''} (log: {self._log.path})")

    async def stop(self) -> None:
        """Ask it to end, kill it after `stop_seconds`; returns when it is gone and its output is written."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if self._process is not None:
            await self._end(self._process, self.part.stop_signal, self.part.stop_seconds)
        self._log.close()

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        began = loop.time()
        while True:
            code = await process.wait()
            self._gone()
            if loop.time() - began > _STEADY:
                pause = _FIRST_PAUSE
            self._announce(f"{self.part.name} ended ({_cause(code)}); starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            began = loop.time()
            try:
                process = await self._spawn()
            except (OSError, CannotStart, launch.CannotConfine) as error:
                # The machine is short of something just now; the part is owed another try, and the person a word.
                self._announce(f"{self.part.name} could not be started: {error}")
                continue
            if await self._becomes_ready(process):
                self._announce(f"{self.part.name} is back")

    async def _spawn(self) -> asyncio.subprocess.Process:
        part = self.part
        if part.prepare is not None:
            await part.prepare()
        argv = launch.command(part.argv, account=part.account, reach=part.reach)
        output = self._log.open_pipe()
        try:
            # Its own session: Ctrl-C reaches us alone, and we stop the parts in order.
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(part.env),
                cwd=part.cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)
        self._process, self.pid, self.ready = process, process.pid, False
        self._changed(part.name, process.pid)
        return process

    async def _becomes_ready(self, process: asyncio.subprocess.Process) -> bool:
        """Whether it became ready in time. It has ended when this says False, and when a cancellation passes."""
        ok = False
        try:
            async with asyncio.timeout(self.part.ready_seconds):
                if self.part.ready is None:
                    ok = await process.wait() == 0
                while self.part.ready is not None and process.returncode is None and not ok:
                    ok = await self.part.ready(process.pid)
                    if not ok:
                        await asyncio.sleep(_ASK_EVERY)
        except TimeoutError:
            pass
        finally:
            if not ok or self.part.ready is None:
                await self._end(process, signal.SIGKILL, 0)
        self.ready = ok
        return ok

    async def _end(self, process: asyncio.subprocess.Process, first: signal.Signals, seconds: float) -> None:
        with suppress(ProcessLookupError):
            if process.returncode is None:
                process.send_signal(first)
        try:
            async with asyncio.timeout(seconds or None):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._gone()

    def _gone(self) -> None:
        if self.pid is not None:
            self.pid, self.ready = None, False
            self._changed(self.part.name, None)


@asynccontextmanager
async def running(part: Part, log: Path, announce: Callable[[str], None] = lambda _: None) -> AsyncIterator[Supervised]:
    """`part` alone, ready, for the length of a block. Raises `CannotStart`."""
    supervised = Supervised(part, LogFile(log), announce, lambda _name, _pid: None)
    try:
        await supervised.start()
        yield supervised
    finally:
        await supervised.stop()


def _cause(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
