"""A VNC viewer for tests: just enough RFB (RFC 6143) to look at nothing, type, and press the mouse."""

import contextlib
import struct
from collections.abc import AsyncIterator

from websockets import Subprotocol
from websockets.asyncio.client import ClientConnection, connect

from tests.agent.running import TOKEN, Agent

CONTROL, RETURN, TAB = 0xFFE3, 0xFF0D, 0xFF09


class Viewer:
    """A connected viewer, past the handshake."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._buffer = b""
        self._pixel_bytes = 4

    async def handshake(self) -> tuple[int, int]:
        """Width and height of the screen."""
        assert (await self._read(12)).startswith(b"RFB 003.008")
        await self.socket.send(b"RFB 003.008\n")
        kinds = await self._read((await self._read(1))[0])
        assert 1 in kinds
        await self.socket.send(b"\x01")
        assert await self._read(4) == b"\0\0\0\0"
        await self.socket.send(b"\x01")
        width, height = struct.unpack(">HH", await self._read(4))
        self._pixel_bytes = (await self._read(16))[0] // 8
        await self._read(struct.unpack(">I", await self._read(4))[0])
        return width, height

    async def type(self, text: str) -> None:
        for character in text:
            await self.press(ord(character))

    async def press(self, key: int, *held: int) -> None:
        for each in (*held, key):
            await self.socket.send(struct.pack(">BBHI", 4, 1, 0, each))
        for each in (key, *reversed(held)):
            await self.socket.send(struct.pack(">BBHI", 4, 0, 0, each))

    async def click(self, x: int, y: int) -> None:
        for buttons in (0, 1, 0):
            await self.socket.send(struct.pack(">BBHH", 5, buttons, x, y))

    async def settle(self) -> None:
        """Until the server has handled everything sent before: it answers a request for one pixel of the screen."""
        await self.socket.send(struct.pack(">BBHi", 2, 0, 1, 0))
        await self.socket.send(struct.pack(">BBHHHH", 3, 0, 0, 0, 1, 1))
        while (kind := (await self._read(1))[0]) != 0:
            await self._skip(kind)
        # To its end, or whoever settles next would take the rest of this answer for one of theirs.
        (rectangles,) = struct.unpack(">xH", await self._read(3))
        for _ in range(rectangles):
            width, height = struct.unpack(">4xHH4x", await self._read(12))
            await self._read(width * height * self._pixel_bytes)

    async def _skip(self, kind: int) -> None:
        """A word of the server that nobody asked for: its bell, or what was copied."""
        assert kind in {2, 3}, kind
        if kind == 3:
            await self._read(struct.unpack(">3xI", await self._read(7))[0])

    async def drain(self) -> None:
        """Read until the other side closes."""
        while True:
            await self.socket.recv()

    async def _read(self, length: int) -> bytes:
        while len(self._buffer) < length:
            data = await self.socket.recv()
            assert isinstance(data, bytes)
            self._buffer += data
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken


@contextlib.asynccontextmanager
async def viewing(agent: Agent, mode: str) -> AsyncIterator[Viewer]:
    url = f"ws://127.0.0.1:{agent.desktop_port}/websockify?mode={mode}"
    async with connect(
        url, additional_headers={"X-Agent-Token": TOKEN}, subprotocols=[Subprotocol("binary")], proxy=None
    ) as socket:
        viewer = Viewer(socket)
        await viewer.handshake()
        yield viewer
