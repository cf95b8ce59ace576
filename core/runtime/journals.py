"""Logs of local agents: read from a pipe, kept in files of bounded size, followed while they grow."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

MAX_FILE_BYTES = 1 << 20  # and as much again in the file before it
MAX_FILES = 500
_MAX_LINE = 2_000
_CHUNK = 1 << 16
_LAST_LINES = 20


class Journal:
    """The log of one agent's running attempt. The agent writes to `writer`, and cannot reach the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader, self.writer = os.pipe()
        self._handed_over = False
        os.set_blocking(self._reader, False)
        self._file = path.open("ab", buffering=0)
        self._last: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._rest = b""
        self.grown = asyncio.Event()
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._read)

    def started(self) -> None:
        """The agent has its end of the pipe."""
        os.close(self.writer)
        self._handed_over = True

    def note(self, line: str) -> None:
        """Write a line of our own."""
        self._keep(f"{line}\n".encode())

    def last_words(self) -> str:
        """The last lines, for a person who wants to know why it ended."""
        lines = [line[:_MAX_LINE].decode(errors="replace") for line in (*self._last, self._rest) if line.strip()]
        return "\n".join(lines[-5:])

    def close(self) -> None:
        """Take what is left in the pipe, then end the followers."""
        if self.closed:
            return
        if not self._handed_over:
            self.started()
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._reader, _CHUNK):
                self._keep(chunk)
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        self._file.close()
        self.closed = True
        self._wake()

    def _read(self) -> None:
        try:
            chunk = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return
        if chunk:
            self._keep(chunk)
        else:
            self._loop.remove_reader(self._reader)

    def _keep(self, chunk: bytes) -> None:
        # A full disk must not stop the reading: the agent would hang on its own log.
        with contextlib.suppress(OSError):
            if self._file.tell() + len(chunk) > MAX_FILE_BYTES:
                self._turn_over()
            self._file.write(chunk)
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[-_MAX_LINE:]
        self._last.extend(lines)
        self._wake()

    def _turn_over(self) -> None:
        """Begin a new file. One that somebody removed is gone; where none can be made, the next chunk tries again."""
        with contextlib.suppress(FileNotFoundError):
            self._path.replace(_older(self._path))
        fresh = self._path.open("ab", buffering=0)
        self._file.close()
        self._file = fresh

    def _wake(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()


class Journals:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Journal] = {}

    def begin(self, agent_id: str) -> Journal:
        self._prune()
        journal = self._open[agent_id] = Journal(self._folder / f"{agent_id}.log")
        return journal

    async def read(self, agent_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        """All that is kept; with `follow` also what comes, until the running attempt ends."""
        path = self._folder / f"{agent_id}.log"
        journal = self._open.get(agent_id)
        with contextlib.suppress(FileNotFoundError):
            yield await asyncio.to_thread(_older(path).read_bytes)
        inode, offset = -1, 0
        while True:
            # Taken before the look at the file: what is written after the look sets this very event.
            grown = None if journal is None or journal.closed else journal.grown
            try:
                inode, offset, chunk = await asyncio.to_thread(_next_chunk, path, inode, offset)
            except FileNotFoundError:
                return
            if chunk:
                yield chunk
            elif grown is None or not follow:
                return
            else:
                await grown.wait()

    def _prune(self) -> None:
        """Forget the logs that were not written for longest, beyond `MAX_FILES`."""
        self._open = {agent_id: journal for agent_id, journal in self._open.items() if not journal.closed}
        files = list(self._folder.glob("*.log"))
        if len(files) < MAX_FILES:
            return
        idle = sorted((path.stat().st_mtime, path) for path in files if path.stem not in self._open)
        for _, path in idle[: len(files) - MAX_FILES + 1]:
            path.unlink(missing_ok=True)
            _older(path).unlink(missing_ok=True)


def _next_chunk(path: Path, inode: int, offset: int) -> tuple[int, int, bytes]:
    """What follows `offset`, from the beginning where the file is another than the one of `inode`."""
    with path.open("rb") as file:
        here = os.fstat(file.fileno()).st_ino
        start = offset if here == inode else 0
        file.seek(start)
        chunk = file.read(_CHUNK)
    return here, start + len(chunk), chunk


def _older(path: Path) -> Path:
    return path.with_suffix(".log.1")
