"""Postgres behind TLS: answers the client's wish for it as a server with a certificate does, and goes on in plain."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator

_WISH = struct.pack(">ii", 8, 80877103)  # SSLRequest of the frontend/backend protocol


class TlsFront:
    """`port` on loopback. `plain` counts the clients that came without TLS; they are turned away."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._target = (host, port)
        self._context = context
        self.port = 0
        self.encrypted = 0
        self.plain = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError), contextlib.closing(writer):
            if await reader.readexactly(len(_WISH)) != _WISH:
                self.plain += 1
                return
            writer.write(b"S")
            await writer.start_tls(self._context)
            self.encrypted += 1
            there, back = await asyncio.open_connection(*self._target)
            with contextlib.closing(back):
                await asyncio.wait(
                    [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))],
                    return_when=asyncio.FIRST_COMPLETED,
                )


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()


@contextlib.asynccontextmanager
async def tls_front(host: str, port: int, context: ssl.SSLContext) -> AsyncIterator[TlsFront]:
    front = TlsFront(host, port, context)
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
