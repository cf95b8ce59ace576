"""A TCP proxy between a client and a server that can be cut, frozen and reset, as networks are."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

_CHUNK = 1 << 16
_LINGER_ZERO = struct.pack("ii", 1, 0)


class TcpProxy:
    """`port` stays the same. What is done to connections is done to those there are; `frozen` and `refusing` go on."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter | None]] = {}
        self._flows = asyncio.Event()
        self._flows.set()
        self._refusing = False
        self._stuck: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.port = 0

    def aim(self, host: str, port: int) -> None:
        """Serve another target from now on."""
        self._target = (host, port)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._flows.set()
        if self._server is not None:
            self._server.close()
        await self.drop()

    def freeze(self) -> None:
        """Stop forwarding, both ways, and keep every connection open; new ones are taken and stay silent too."""
        self._flows.clear()

    def freeze_open(self) -> None:
        """Never forward anything again on the connections there are; new ones are served."""
        self._stuck |= set(self._pairs)

    def thaw(self) -> None:
        self._flows.set()

    def refuse(self, refusing: bool = True) -> None:
        """Take new connections and close them at once."""
        self._refusing = refusing

    async def drop(self) -> None:
        """End all connections in order, as a proxy that is restarted does."""
        await self._end(abrupt=False)

    async def reset(self) -> None:
        """End all connections with a reset, as a machine that forgot them does."""
        await self._end(abrupt=True)

    async def _end(self, *, abrupt: bool) -> None:
        ending = dict(self._pairs)
        for task, (client, _) in ending.items():
            if abrupt and (raw := client.get_extra_info("socket")) is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._pairs[task] = (writer, None)
        there: asyncio.StreamWriter | None = None
        try:
            if self._refusing:
                return
            await self._flows.wait()
            back, there = await asyncio.open_connection(*self._target)
            self._pairs[task] = (writer, there)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(task, reader, there))
                both.create_task(self._forward(task, back, writer))
        except (OSError, ExceptionGroup):
            pass  # one side went: so does the other
        except asyncio.CancelledError:
            pass  # ended from outside, by drop, reset or close; nothing above us waits for the cancellation
        finally:
            self._pairs.pop(task, None)
            self._stuck.discard(task)
            for each in (writer, there):
                if each is not None:
                    each.close()

    async def _forward(self, of: asyncio.Task[None], source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            if of in self._stuck:
                continue
            await self._flows.wait()
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


@contextlib.asynccontextmanager
async def tcp_proxy(host: str, port: int) -> AsyncIterator[TcpProxy]:
    proxy = TcpProxy(host, port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
