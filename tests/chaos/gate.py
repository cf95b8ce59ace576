"""The harness' end of the boundaries: hears where each part is, and holds one where it is wanted."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, order=True)
class Boundary:
    """A place in a part of Berth."""

    part: str
    at: str

    def __str__(self) -> str:
        return f"{self.part} {self.at}"


@dataclass
class Held:
    """A part that stands at a boundary. One that was killed there need not be let on."""

    boundary: Boundary
    _writer: asyncio.StreamWriter = field(repr=False)

    def let_on(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(b".")


class Gate:
    """Lets every part pass every boundary, but holds the first that comes to the one that is `armed`."""

    def __init__(self) -> None:
        self.passed: list[Boundary] = []
        self._wanted: Boundary | None = None
        self._came: asyncio.Future[Held] | None = None

    def arm(self, boundary: Boundary) -> "asyncio.Future[Held]":
        """Who comes there next. Cancel it to hold nobody."""
        self._wanted, self._came = boundary, asyncio.get_running_loop().create_future()
        return self._came

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                said = json.loads(line)
                boundary = Boundary(said["part"], said["at"])
                self.passed.append(boundary)
                if boundary == self._wanted and self._came is not None and not self._came.done():
                    self._came.set_result(Held(boundary, writer))
                else:
                    writer.write(b".")
                    await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def open_gate(place: Path) -> AsyncIterator[Gate]:
    gate = Gate()
    server = await asyncio.start_unix_server(gate.serve, place)
    try:
        yield gate
    finally:
        server.close()
