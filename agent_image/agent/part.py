"""One child process of the agent (X server, window manager, browser), with the end of what it said."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from core import launch

_TAIL_BYTES = 4096
_SILENT_SECONDS = 0.3


class PartFailed(Exception):
    """A part did not start, or ended while it was needed; the message holds its last words.

    `permanent` when another try on the same machine must end the same way.
    """

    def __init__(self, message: str, *, permanent: bool = False, killed: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.killed = killed


class Part:
    """A running child. It dies with this process, whatever kills this process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, said: asyncio.StreamReader) -> None:
        self.name = name
        self.process = process
        self._tail = bytearray()
        self._reader = asyncio.create_task(self._read(said), name=f"{name}.stderr")
        self.exited: asyncio.Task[int] = asyncio.create_task(self._ended(), name=f"{name}.exit")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    @property
    def killed(self) -> bool:
        return self.process.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}

    def last_words(self) -> str:
        return self._tail.decode(errors="replace").strip()

    async def _ended(self) -> int:
        """The exit code, once the child's last words are there; a helper that hangs keeps nobody waiting for them."""
        code = await self.process.wait()
        await self.silent(_SILENT_SECONDS)
        return code

    async def _read(self, said: asyncio.StreamReader) -> None:
        while chunk := await said.read(65536):
            self._tail += chunk
            del self._tail[:-_TAIL_BYTES]

    async def wait(self, seconds: float) -> bool:
        """True when the child has ended within `seconds`."""
        done, _ = await asyncio.wait({self.exited}, timeout=seconds)
        return bool(done)

    async def silent(self, seconds: float) -> None:
        """Return when nobody can say any more for it, so that its last words are all there; after `seconds` anyway."""
        await asyncio.wait({self._reader}, timeout=seconds)

    async def stop(self, seconds: float) -> None:
        """Ask with SIGTERM, insist with SIGKILL after `seconds`. Safe to call twice."""
        if self.running:
            self._signal(signal.SIGTERM)
            if not await self.wait(seconds):
                self._signal(signal.SIGKILL)
                await self.wait(5)
        self._reader.cancel()

    def _signal(self, number: signal.Signals) -> None:
        # The child leads its own session, so this reaches what it has started too.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


async def start(
    name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, pass_fds: Sequence[int] = ()
) -> Part:
    """Start `argv` as a part. Must be called from the main thread: Linux ties "dies with parent" to the thread."""
    if shutil.which(argv[0], path=env.get("PATH")) is None:
        raise PartFailed(f"{argv[0]} is not installed: the agent's {name} needs it", permanent=True)
    # A pipe of our own: with asyncio's the child would not count as ended while a helper of it, which may hang, has
    # the other end.
    read_end, write_end = os.pipe()
    said = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(said), os.fdopen(read_end, "rb")
    )
    try:
        process = await asyncio.create_subprocess_exec(
            *launch.command(argv),
            env=dict(env),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=write_end,
            start_new_session=True,
        )
    except OSError as error:
        raise PartFailed(f"{name} cannot be started: {error}") from error
    finally:
        os.close(write_end)
    return Part(name, process, said)
