"""The harness' end of the boundaries: hears who comes to each, and holds the first that comes where one is wanted."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, order=True)
class Boundary:
    """A place in a part of Berth."""

    part: str
    at: str

    def __str__(self) -> str:
        return f"{self.part} {self.at}"


@dataclass(frozen=True)
class Passage:
    """Somebody who came to a boundary. `whose`: the workflow, or the request, that it is of."""

    boundary: Boundary
    whose: str
    moment: float


@dataclass
class Held:
    """Somebody who stands at a boundary. Whose part was killed need not be let on."""

    passage: Passage
    _writer: asyncio.StreamWriter = field(repr=False)

    @property
    def boundary(self) -> Boundary:
        return self.passage.boundary

    def let_on(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(b".")


class Gate:
    """Lets everybody pass, but holds the first that comes to each boundary that is `wanted`."""

    def __init__(self) -> None:
        self.passed: list[Passage] = []
        self.held: list[Held] = []
        self._wanted: set[Boundary] = set()
        self._open = False

    def forget(self) -> None:
        """Whoever came so far."""
        self.passed.clear()

    def hold(self, wanted: Collection[Boundary]) -> None:
        """From now on, one at each of these."""
        self.held.clear()
        self._wanted, self._open = set(wanted), True

    def hold_no_more(self) -> list[Held]:
        """Who stands somewhere. Whoever comes from now on passes."""
        self._wanted.clear()
        self._open = False
        return list(self.held)

    @property
    def wanted(self) -> frozenset[Boundary]:
        """Where nobody stands yet."""
        return frozenset(self._wanted)

    @property
    def all_stand(self) -> bool:
        """Whether somebody stands at each that was wanted."""
        return not self._wanted

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(await reader.readline())
            passage = Passage(Boundary(said["part"], said["at"]), said["whose"], time.monotonic())
            self.passed.append(passage)
            if passage.boundary in self._wanted:
                await self._holds(Held(passage, writer), reader)
            else:
                writer.write(b".")
                await reader.read()  # until the part has gone on
        writer.close()

    async def _holds(self, held: Held, reader: asyncio.StreamReader) -> None:
        """Until it was let on, or is dead. Who gave up waiting before anything was harmed stood there for nothing."""
        self._wanted.remove(held.boundary)
        self.held.append(held)
        await reader.read()
        if self._open and held in self.held:
            self.held.remove(held)
            self._wanted.add(held.boundary)


@contextlib.asynccontextmanager
async def open_gate(place: Path) -> AsyncIterator[Gate]:
    gate = Gate()
    server = await asyncio.start_unix_server(gate.serve, place)
    try:
        yield gate
    finally:
        server.close()
