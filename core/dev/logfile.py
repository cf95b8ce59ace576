"""What a child prints, in a file that cannot grow without end."""

import asyncio
import os
from pathlib import Path

_CHUNK = 65536
_LIMIT = 5 * 1024 * 1024


class LogFile:
    """Collects output in `path`; past `limit` bytes the file becomes `path.1` and a new one begins.

    So at most twice `limit` is kept. A full disk loses lines, never blocks the child that writes them.
    """

    def __init__(self, path: Path, limit: int = _LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._readers: set[int] = set()

    def open_pipe(self) -> int:
        """A descriptor for a child's stdout and stderr. The caller closes its own copy once the child has it."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        self._readers.add(reader)
        asyncio.get_running_loop().add_reader(reader, self._read, reader)
        return writer

    def last_line(self) -> str:
        """The last line that says something, at most 300 characters, or an empty string."""
        for reader in tuple(self._readers):
            self._read(reader)
        try:
            tail = self.path.read_bytes()[-4096:]
        except OSError:
            return ""
        lines = [line.strip() for line in tail.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    def close(self) -> None:
        for reader in tuple(self._readers):
            self._read(reader)
            self._forget(reader)

    def _read(self, reader: int) -> None:
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._write(data)
        else:
            self._forget(reader)

    def _forget(self, reader: int) -> None:
        if reader in self._readers:
            self._readers.discard(reader)
            asyncio.get_running_loop().remove_reader(reader)
            os.close(reader)

    def _write(self, data: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                full = file.tell() + len(data) > self._limit
                if not full:
                    file.write(data)
            if full:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self.path.write_bytes(data)
        except OSError:
            # The output must be taken from the pipe all the same, or the child would stop in its next write.
            pass
