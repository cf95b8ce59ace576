"""The browser's only way out: a forward proxy that resolves names itself and refuses what is not public.

Because the address that was checked is the address that is connected to, a name that changes its meaning between two
questions (DNS rebinding) gains nothing; because every hop of a redirect is a request of its own, neither does that.
"""

import asyncio
import contextlib
import html
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent_image.agent.addresses import AddressPolicy, Refused, check_scheme, normal
from agent_image.agent.journal import log
from agent_image.agent.names import Names
from core.domain.addresses import IpAddress

_HEAD_BYTES = 64 << 10
_HEAD_SECONDS = 30
_CONNECT_SECONDS = 15
_IDLE_SECONDS = 600
_CONNECTIONS = 512
_HOP_BY_HOP = {b"connection", b"proxy-connection", b"proxy-authorization", b"keep-alive", b"te", b"upgrade"}


@dataclass(frozen=True)
class _Head:
    """First line and headers of a request or an answer, as they came."""

    line: list[bytes]
    fields: list[tuple[bytes, bytes]]

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key.lower() == name), None)

    def rewritten(self, line: Iterable[bytes]) -> bytes:
        """The same head for the next hop: no hop-by-hop fields, and the connection ends after this one message."""
        kept = [key + b": " + value for key, value in self.fields if key.lower() not in _HOP_BY_HOP]
        return b"\r\n".join([b" ".join(line), *kept, b"Connection: close", b"", b""])


class _BadRequest(Exception):
    """What came is not a request that a browser sends to a proxy."""


class Gateway:
    """Listens on loopback for this agent's browser."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._names = Names()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._names.close()

    async def resolve(self, host: str, port: int) -> list[IpAddress]:
        """The addresses of `host` that the browser may use, in the resolver's order.

        Raises `Refused` when all are closed to it, OSError when the name has none.
        """
        name = normal(host)
        if name == "localhost" or name.endswith(".localhost"):
            name = "127.0.0.1"  # RFC 6761: always this machine, whatever the resolver makes of it
        async with asyncio.timeout(_CONNECT_SECONDS):
            addresses = await self._names.addresses(name, port)
        return self._policy.choose(host, port, addresses)

    async def check(self, url: str) -> None:
        """Raise `Refused` for a page address that is closed to the browser, OSError when its name is not known."""
        check_scheme(url)
        origin = origin_of(url)
        if origin is not None:
            await self.resolve(*origin)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= _CONNECTIONS:
            writer.close()
            return
        self._open.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, _BadRequest, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the browser or the site went away; the browser shows that itself
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_HEAD_SECONDS):
            head = await _read_head(reader)
        if len(head.line) != 3:
            raise _BadRequest
        method, target, _ = head.line
        tunnel = method == b"CONNECT"
        origin = origin_of(f"https://{target.decode('latin-1')}" if tunnel else target.decode("latin-1"))
        if origin is None:
            await _answer(writer, 400, "Bad request", "This gateway takes requests of its own browser only.")
            return
        try:
            upstream_reader, upstream = await self._connect(*origin)
        except Refused as refused:
            log.info("gateway.refused", host=origin[0], port=origin[1])
            await _answer(writer, 403, "Address refused", str(refused))
            return
        except (OSError, TimeoutError) as error:
            why = "cannot be found" if isinstance(error, socket.gaierror) else "does not answer"
            await _answer(writer, 502, "Site not reachable", f"{origin[0]} {why}.")
            return
        try:
            if tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _splice((reader, writer), (upstream_reader, upstream))
            else:
                await _forward(head, reader, writer, upstream_reader, upstream)
        finally:
            upstream.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failure: OSError | TimeoutError = OSError("no address")
        for address in (await self.resolve(host, port))[:4]:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection(str(address), port, limit=_HEAD_BYTES)
            except (OSError, TimeoutError) as error:
                failure = error
        raise failure


def origin_of(url: str) -> tuple[str, int] | None:
    """Host and port of an http(s) address, None when it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443, "ws": 80, "wss": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname.lower(), port) if parts.hostname and port else None


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw[:-4].split(b"\r\n")
    fields = []
    for line in lines:
        key, colon, value = line.partition(b":")
        if not colon or not key or key != key.strip():
            raise _BadRequest
        fields.append((key, value.strip()))
    return _Head(first.split(b" ", 2), fields)


async def _forward(
    head: _Head,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream: asyncio.StreamWriter,
) -> None:
    """One plain http request and its answer. Never two on one connection: the second could be for another host."""
    method, target, version = head.line
    parts = urlsplit(target.decode("latin-1"))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    length = head.get(b"content-length") or b"0"
    if head.get(b"transfer-encoding") is not None or not length.isdigit():
        await _answer(writer, 411, "Length required", "Uploads without a length are not passed on.")
        return
    upstream.write(head.rewritten([method, path.encode("latin-1"), version]))
    sending = asyncio.create_task(_copy(reader, upstream, int(length)))
    try:
        async with asyncio.timeout(_IDLE_SECONDS):
            answer = await _read_head(upstream_reader)
            while answer.line[1:2] and answer.line[1].startswith(b"1"):
                answer = await _read_head(upstream_reader)  # "100 Continue" and the like: nothing a browser waits for
        writer.write(answer.rewritten(answer.line))
        await _copy(upstream_reader, writer, None)
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, TimeoutError):
            await sending


async def _splice(
    left: tuple[asyncio.StreamReader, asyncio.StreamWriter], right: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Copy both ways until one side ends."""
    tasks = {
        asyncio.create_task(_copy(left[0], right[1], None)),
        asyncio.create_task(_copy(right[0], left[1], None)),
    }
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, length: int | None) -> None:
    """Copy `length` bytes, or until the end."""
    left = length
    while left is None or left > 0:
        async with asyncio.timeout(_IDLE_SECONDS if left is not None else None):
            chunk = await source.read(65536 if left is None else min(65536, left))
        if not chunk:
            break
        if left is not None:
            left -= len(chunk)
        sink.write(chunk)
        await sink.drain()


async def _answer(writer: asyncio.StreamWriter, status: int, title: str, text: str) -> None:
    body = refusal_page(title, text).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


def refusal_page(title: str, text: str) -> str:
    """A page for the person in front of the browser."""
    return (
        '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>body{{font:16px/1.5 sans-serif;max-width:36em;margin:18vh auto;"
        f"padding:0 1em}}h1{{font-size:1.4em}}</style><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p>"
    )
