"""The desktop for people: a noVNC page, and the bridge from its WebSocket to the screen's unix socket."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import WSMsgType, web

from agent_image.agent.doors import Doorkeeper
from agent_image.agent.journal import log
from agent_image.agent.rfb import UnknownMessage, ViewOnly
from core.domain.viewing import said_by_itself

_PAGE = Path(__file__).resolve().parents[1] / "web"
_ACTIVITY_SECONDS = 15
_MAX_VIEWERS = 16
_MAX_CLIENT_MESSAGE = 1 << 20
# Only our own scripts and our own socket; whoever may frame the page is for the API in front of it to say.
_HEADERS = {
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'",
}


class Viewer:
    """Routes of the noVNC port. `active` is called, at most every 15 s, while someone types or moves the mouse."""

    def __init__(self, doors: Doorkeeper, vnc: Path, novnc: Path, active: Callable[[], None]) -> None:
        self._doors = doors
        self._vnc = vnc
        self._novnc = novnc
        self._active = active
        self._last_active = -_ACTIVITY_SECONDS * 1.0
        self._sockets: set[web.WebSocketResponse] = set()
        self._closed = False

    def app(self) -> web.Application:
        app = web.Application()
        app.on_response_prepare.append(self._add_headers)
        app.add_routes([web.get("/", self._page), web.get("/websockify", self._bridge), web.static("/page", _PAGE)])
        for part in ("core", "vendor"):
            if (self._novnc / part).is_dir():
                app.add_routes([web.static(f"/{part}", self._novnc / part)])
            else:
                log.warning("viewer.no_files", folder=str(self._novnc / part))
        return app

    def count(self) -> int:
        return len(self._sockets)

    async def close(self) -> None:
        self._closed = True
        for socket in list(self._sockets):
            await socket.close(code=1001, message=b"the agent is stopping")

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(_PAGE / "index.html")

    async def _bridge(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._doors.refusal(request)) is not None:
            return refusal
        mode = request.query.get("mode", "view")
        if mode not in {"view", "control"}:
            return web.json_response({"code": "invalid_mode", "detail": "mode is view or control"}, status=422)
        if self._closed or len(self._sockets) >= _MAX_VIEWERS:
            return web.json_response({"code": "busy", "detail": "no more viewers now"}, status=409)
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._vnc))
        except OSError:
            return web.json_response({"code": "no_screen", "detail": "the screen is not there"}, status=503)
        socket = web.WebSocketResponse(
            protocols=("binary",), max_msg_size=_MAX_CLIENT_MESSAGE, heartbeat=20, compress=False
        )
        self._sockets.add(socket)
        try:
            await socket.prepare(request)
            await self._pass(socket, reader, writer, control=mode == "control")
        finally:
            self._sockets.discard(socket)
            writer.close()
        return socket

    async def _pass(
        self,
        socket: web.WebSocketResponse,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        control: bool,
    ) -> None:
        view_only = ViewOnly()
        watching = ViewOnly() if control else None
        down = asyncio.create_task(_down(reader, socket))
        try:
            async for message in socket:
                if message.type is not WSMsgType.BINARY:
                    continue
                data: bytes = message.data
                if watching is not None:
                    watching = self._notice(watching, data)
                writer.write(data if control else view_only.feed(data))
                await writer.drain()
        except UnknownMessage as error:
            log.warning("viewer.unknown_message", what=str(error))
            await socket.close(code=1008, message=b"unknown message")
        except (ConnectionError, OSError):
            pass  # the viewer or the screen is gone
        finally:
            down.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await down

    def _notice(self, watching: ViewOnly, data: bytes) -> ViewOnly | None:
        """Find out whether this is input. Whoever cannot be understood any more counts as active with every message."""
        try:
            passive = len(watching.feed(data)) == len(data) or said_by_itself(data)
        except UnknownMessage:
            self._touch()
            return None
        if not passive:
            self._touch()
        return watching

    def _touch(self) -> None:
        now = time.monotonic()
        if now - self._last_active >= _ACTIVITY_SECONDS:
            self._last_active = now
            self._active()


async def _down(reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    while data := await reader.read(65536):
        await socket.send_bytes(data)
    await socket.close(code=1001, message=b"the screen is gone")
