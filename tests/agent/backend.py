"""Berth as an agent sees it: the channel's other end and the artefact store, with faults to order."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.problems import answer
from core.errors import Unauthenticated

Message = dict[str, Any]


class Backend:
    """Keeps what an agent said. `durable` is the highest seq that was kept; it is acknowledged unless `deaf`."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.url = ""
        self.heard: list[Message] = []
        self.kept: list[Message] = []
        self.durable = 0
        self.deaf = False
        self.refuse = False
        # What somebody between the agent and Berth answers in its place, one handshake after the other.
        self.in_front: list[Response] = []
        self.hellos: list[Message] = []
        self.handshakes = 0
        self.artefacts: dict[str, tuple[str, bytes]] = {}
        self.failing_puts = 0
        self.stalled_puts: asyncio.Event | None = None
        self.socket: WebSocket | None = None
        self._changed = asyncio.Event()

    async def channel(self, websocket: WebSocket) -> None:
        self.handshakes += 1
        self._wake()
        if self.in_front:
            await websocket.send_denial_response(self.in_front[self.handshakes % len(self.in_front)])
            return
        if self.refuse or websocket.headers.get("authorization") != f"Bearer {self.token}":
            await websocket.send_denial_response(answer(Unauthenticated("no living agent has this token")))
            return
        await websocket.accept()
        self.socket = websocket
        try:
            while True:
                await self._hear(websocket, await websocket.receive_json())
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            if self.socket is websocket:
                self.socket = None
            self._wake()

    async def _hear(self, websocket: WebSocket, message: Message) -> None:
        self.heard.append(message)
        if message["type"] == "agent_online":
            self.hellos.append({**message, "header": websocket.headers.get("x-agent-id")})
            await websocket.send_json({"type": "ack", "seq": self.durable})
        elif message["type"] != "heartbeat":
            if message["seq"] > self.durable and not self.deaf:
                self.kept.append(message)
                self.durable = message["seq"]
            if not self.deaf:
                await websocket.send_json({"type": "ack", "seq": self.durable})
        self._wake()

    async def put(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return Response(status_code=401)
        if self.failing_puts:
            self.failing_puts -= 1
            return Response(status_code=503)
        command_id = request.path_params["command_id"]
        if self.stalled_puts is not None:
            self.stalled_puts.set()
            await asyncio.Event().wait()
        body = await request.body()
        self.artefacts[command_id] = (request.headers["content-type"], body)
        return JSONResponse(
            {
                "artefactId": f"art-{command_id}",
                "contentType": request.headers["content-type"],
                "bytes": len(body),
                "url": f"/api/artefacts/art-{command_id}",
            }
        )

    async def send(self, message: Message) -> None:
        assert self.socket is not None, "no agent is connected"
        await self.socket.send_json(message)

    async def order(self, command_id: str, command: str, timeout: float = 30, **parameters: Any) -> Message:
        """Send a command on the channel and return its result message."""
        await self.send(
            {
                "type": "execute",
                "commandId": command_id,
                "command": command,
                "parameters": parameters,
                "timeoutSeconds": timeout,
            }
        )
        return (await self.results(command_id, timeout + 5))[0]

    async def results(self, command_id: str, seconds: float = 10) -> list[Message]:
        def found() -> list[Message]:
            return [m for m in self.kept if m["type"] == "command_result" and m["commandId"] == command_id]

        await self.until(lambda: bool(found()), seconds)
        return found()

    async def status(self, status: str, seconds: float = 10) -> Message:
        def found() -> list[Message]:
            return [m for m in self.kept if m["type"] == "agent_status" and m["status"] == status]

        await self.until(lambda: bool(found()), seconds)
        return found()[-1]

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.heard if message["type"] == kind]

    async def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await self._changed.wait()

    async def drop(self, code: int = 1012) -> None:
        """Close the agent's socket."""
        socket, self.socket = self.socket, None
        if socket is not None:
            await socket.close(code)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def serve(token: str, host: str = "127.0.0.1") -> AsyncIterator[Backend]:
    backend = Backend(token)
    app = Starlette(
        routes=[
            WebSocketRoute("/ws/agent", backend.channel),
            Route("/agent-artefacts/{command_id}", backend.put, methods=["PUT"]),
        ]
    )
    listener = socket.socket()
    listener.bind((host, 0))
    backend.url = f"http://{host}:{listener.getsockname()[1]}"
    config = uvicorn.Config(app, ws="websockets-sansio", log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield backend
    finally:
        server.should_exit = True
        await asyncio.wait({serving}, timeout=10)
        listener.close()
