"""A second user of the debugging pipe (browser-use), through one secret WebSocket path on loopback.

The user gets a browser session of its own in Chromium. What it switches on, attaches to or listens for stays apart from
ours, ids are exchanged on the way, and when it goes, Chromium forgets its session with everything in it.
"""

import asyncio
import contextlib
import json
import secrets

from aiohttp import WSMsgType, web

from agent_image.agent.journal import log
from agent_image.agent.pipe import CdpError, CdpPipe, Message

_QUEUE = 20_000


class Bridge:
    """Serves `url` to one user at a time."""

    def __init__(self, pipe: CdpPipe) -> None:
        self._pipe = pipe
        self._runner: web.AppRunner | None = None
        self._taken = False
        self.url = ""

    async def start(self) -> None:
        path = f"/{secrets.token_urlsafe(32)}"
        app = web.Application()
        app.router.add_get(path, self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"ws://127.0.0.1:{self._runner.addresses[0][1]}{path}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if "Origin" in request.headers or self._taken:
            return web.Response(status=403)
        self._taken = True
        try:
            socket = web.WebSocketResponse(max_msg_size=0, compress=False)
            await socket.prepare(request)
            await _User(self._pipe, socket).serve()
            return socket
        finally:
            self._taken = False


class _User:
    def __init__(self, pipe: CdpPipe, socket: web.WebSocketResponse) -> None:
        self._pipe = pipe
        self._socket = socket
        self._out: asyncio.Queue[Message] = asyncio.Queue(_QUEUE)
        self._root = ""
        self._sessions: set[str] = set()

    async def serve(self) -> None:
        self._root = (await self._pipe.call("Target.attachToBrowserTarget"))["sessionId"]
        self._own(self._root)
        sender = asyncio.create_task(self._send())
        try:
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    self._forward(json.loads(message.data))
        finally:
            sender.cancel()
            for session in self._sessions:
                self._pipe.unroute(session)
            with contextlib.suppress(CdpError, TimeoutError):
                await self._pipe.call("Target.detachFromTarget", {"sessionId": self._root}, timeout=3)

    def _forward(self, message: Message) -> None:
        number, session = message.pop("id"), message.pop("sessionId", None)

        def answered(answer: Message) -> None:
            attached = answer.get("result", {}).get("sessionId")
            if isinstance(attached, str):
                self._own(attached)
            reply = {key: answer[key] for key in ("result", "error") if key in answer}
            self._deliver({"id": number, **reply} | ({"sessionId": session} if session else {}))

        self._pipe.send(message, session or self._root, answered)

    def _event(self, message: Message) -> None:
        if message["method"] == "Target.attachedToTarget":
            self._own(message["params"]["sessionId"])
        elif message["method"] == "Target.detachedFromTarget":
            gone = message["params"]["sessionId"]
            self._sessions.discard(gone)
            self._pipe.unroute(gone)
        if message.get("sessionId") == self._root:
            message = {key: value for key, value in message.items() if key != "sessionId"}
        self._deliver(message)

    def _own(self, session: str) -> None:
        if session not in self._sessions:
            self._sessions.add(session)
            self._pipe.route(session, self._event)

    def _deliver(self, message: Message) -> None:
        try:
            self._out.put_nowait(message)
        except asyncio.QueueFull:
            log.error("bridge.user_too_slow", waiting=_QUEUE)
            self._out = asyncio.Queue(_QUEUE)
            self._closer = asyncio.ensure_future(self._socket.close(code=1013))

    async def _send(self) -> None:
        while True:
            await self._socket.send_str(json.dumps(await self._out.get()))
