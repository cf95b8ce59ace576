"""A door on this machine to agents that only the API server can reach: HTTP and WebSocket through `pods/proxy`.

It listens on loopback, under a path that cannot be guessed, and shows the agent's own token as it came. The API server
takes `Authorization` for itself, which is why agents are shown `X-Agent-Token`.
"""

import asyncio
import secrets
from urllib.parse import quote

import structlog
from aiohttp import ClientWebSocketResponse, StreamReader, WSMsgType, web

from core.domain.wire import MAX_MESSAGE_BYTES
from core.errors import RuntimeFault, RuntimeRetryable
from k8s.client import Cluster

log = structlog.get_logger()
_MAX_MESSAGE = 8 << 20
# An agent may work on one command for ten minutes.
_ANSWER_SECONDS = 660.0
_PASSED_ON = ("X-Agent-Token", "Content-Type", "Accept", "User-Agent")
# An answer that is packed although nobody asked for it goes on as it is, for the caller to refuse.
_TOLD = ("Content-Type", "Content-Encoding")


class Relay:
    """Opens when it is first asked for an address."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._key = secrets.token_urlsafe(24)
        self._runner: web.AppRunner | None = None
        self._address = ""
        self._opening = asyncio.Lock()

    async def url(self, pod: str, port: int) -> str:
        """Where this process reaches that port of the pod. Raises `RuntimeRetryable` when it cannot listen."""
        async with self._opening:
            if self._runner is None:
                await self._open()
        return f"{self._address}/{self._key}/{pod}/{port}"

    async def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _open(self) -> None:
        app = web.Application(client_max_size=MAX_MESSAGE_BYTES)
        app.router.add_route("*", f"/{self._key}/{{pod}}/{{port:[0-9]+}}/{{path:.*}}", self._carry)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        except OSError as error:
            await runner.cleanup()
            raise RuntimeRetryable(f"no door to the cluster's agents can be opened here: {error}") from error
        self._runner = runner
        self._address = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _carry(self, request: web.Request) -> web.StreamResponse:
        part = request.match_info
        path = f"{self._pods}/{part['pod']}:{part['port']}/proxy/{quote(part['path'])}"
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        try:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._join(request, path, headers)
            body = await request.read() if request.can_read_body else None
            async with self._cluster.forward(
                request.method,
                path,
                query=request.rel_url.raw_query_string,
                headers=headers,
                body=body,
                seconds=_ANSWER_SECONDS,
            ) as answer:
                told = {name: answer.headers[name] for name in _TOLD if name in answer.headers}
                return web.Response(status=answer.status, body=await _bounded(answer.content), headers=told)
        except RuntimeFault as fault:
            log.warning("relay.not_reached", pod=part["pod"], detail=fault.detail)
            return web.Response(status=502, text=fault.detail)

    async def _join(self, request: web.Request, path: str, headers: dict[str, str]) -> web.StreamResponse:
        async with self._cluster.socket(
            path, query=request.rel_url.raw_query_string, headers=headers, max_bytes=_MAX_MESSAGE
        ) as far:
            near = web.WebSocketResponse(max_msg_size=_MAX_MESSAGE, compress=False)
            await near.prepare(request)
            ways = [asyncio.create_task(_pass(near, far)), asyncio.create_task(_pass(far, near))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                await near.close()
            return near


async def _bounded(content: StreamReader) -> bytes:
    """A whole answer; of one that is larger than a message, a byte more than that, by which the caller knows."""
    taken = bytearray()
    while len(taken) <= MAX_MESSAGE_BYTES and (chunk := await content.read(MAX_MESSAGE_BYTES + 1 - len(taken))):
        taken += chunk
    return bytes(taken)


async def _pass(
    source: web.WebSocketResponse | ClientWebSocketResponse, sink: web.WebSocketResponse | ClientWebSocketResponse
) -> None:
    """Until either side leaves."""
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
