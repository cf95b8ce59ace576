"""A second user of the debugging pipe (browser-use), through one secret WebSocket path on loopback.

The user gets a browser session of its own in Chromium. What it switches on, attaches to or listens for stays apart from
ours, ids are exchanged on the way, and when it goes, Chromium forgets its session with everything in it: also what it
had set for the whole browser, and what we had set there goes with it.
"""

import asyncio
import hmac
import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from aiohttp import WSMsgType, web

from agent_image.agent.journal import log
from agent_image.agent.pipe import CdpError, CdpPipe, Message

_QUEUE = 20_000


class Bridge:
    """Serves one user at a time, each by an address of its own that is good until the next is asked for.

    Whatever its user was talked into, it gives pages no files but those of `uploads`: browser-use takes any path for
    good, where it did not start the browser itself. `gone` is called behind each user, once Chromium has been told to
    forget it: time to set again what it undid.
    """

    def __init__(self, pipe: CdpPipe, uploads: Sequence[Path], gone: Callable[[], None]) -> None:
        self._pipe = pipe
        self._uploads = uploads
        self._gone = gone
        self._runner: web.AppRunner | None = None
        self._secret = secrets.token_urlsafe(32)
        self._user: _User | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{secret}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    async def invite(self) -> str:
        """A fresh address; whoever came by an earlier one is put out."""
        await self.dismiss()
        if self._runner is None:
            raise CdpError("the bridge is not open")
        return f"ws://127.0.0.1:{self._runner.addresses[0][1]}/{self._secret}"

    async def dismiss(self) -> None:
        """Put the present user out for good: its address is no longer one."""
        self._secret = secrets.token_urlsafe(32)
        await self.drop()

    async def drop(self) -> None:
        """Put the present user out, however it is."""
        user, self._user = self._user, None
        if user is not None:
            await user.close()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        known = hmac.compare_digest(request.match_info["secret"].encode(), self._secret.encode())
        if not known or "Origin" in request.headers or self._user is not None:
            return web.Response(status=404)
        socket = web.WebSocketResponse(max_msg_size=0, compress=False, timeout=1)
        user = self._user = _User(self._pipe, socket, self._uploads, self._gone)
        try:
            await socket.prepare(request)
            await user.serve()
        finally:
            if self._user is user:
                self._user = None
        return socket


class _User:
    def __init__(
        self, pipe: CdpPipe, socket: web.WebSocketResponse, uploads: Sequence[Path], gone: Callable[[], None]
    ) -> None:
        self._pipe = pipe
        self._socket = socket
        self._uploads = [os.path.realpath(folder) for folder in uploads]
        self._gone = gone
        self._out: asyncio.Queue[Message] = asyncio.Queue(_QUEUE)
        self._root = ""
        self._sessions: set[str] = set()
        self._closing: asyncio.Task[object] | None = None

    async def close(self) -> None:
        await self._socket.close(code=1001)

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
            detach: Message = {"method": "Target.detachFromTarget", "params": {"sessionId": self._root}}
            # Chromium does things in the order they come: nothing can come between this and what `gone` sends.
            self._pipe.send(detach, None, lambda _: None)
            self._gone()
            log.info("bridge.user_gone")

    def _forward(self, message: Message) -> None:
        number, session = message.pop("id"), message.pop("sessionId", None)

        def answered(answer: Message) -> None:
            attached = answer.get("result", {}).get("sessionId")
            if isinstance(attached, str):
                self._own(attached)
            outgoing: Message = {"id": number}
            outgoing.update({key: answer[key] for key in ("result", "error") if key in answer})
            self._deliver({**outgoing, "sessionId": session} if session else outgoing)

        if message.get("method") == "DOM.setFileInputFiles" and not self._may_upload(message.get("params", {})):
            log.warning("bridge.upload_refused")
            answered({"error": {"code": -32000, "message": "only files downloaded or written here can be uploaded"}})
            return
        self._pipe.send(message, session or self._root, answered)

    def _may_upload(self, params: Message) -> bool:
        """Whether all the files lie in our folders, by their true places."""
        paths = [str(each) for each in params.get("files", [])]
        return all(os.path.isabs(path) and self._is_ours(Path(os.path.realpath(path))) for path in paths)

    def _is_ours(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self._uploads)

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
            self._closing = asyncio.create_task(self._socket.close(code=1013))

    async def _send(self) -> None:
        while True:
            await self._socket.send_str(json.dumps(await self._out.get()))
