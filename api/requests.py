"""Around every request: an id, one line in the log, a count, safe headers, and a problem for what nobody caught."""

import asyncio
import time
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.metrics import Metrics
from api.paths import keep_encoded
from core.errors import BerthError, Unavailable
from core.ids import new_uuid7

log = structlog.get_logger()

_QUIET = frozenset({"/health", "/ready", "/metrics"})
_INTERNAL = BerthError("something failed inside Berth; it is in the log under this request id")
_LEAVING = Unavailable("this server is about to leave; ask again", code="server_leaving", retry_after=1)


class Requests:
    """ASGI middleware, outermost. Logs the route's template and never the path's query, which may hold a ticket."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        keep_encoded(scope)
        request_id = f"rq-{new_uuid7().hex}"
        began = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _mark(message, scope, request_id)
                self._note(scope, status, time.perf_counter() - began)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_marked)
            except Exception as error:  # the last owner there is: told to the log, and to the caller without its text
                log.error("api.internal_error", method=scope["method"], route=_route(scope), exc_info=error)
                if not status:
                    await problems.answer(_INTERNAL)(scope, receive, send_marked)
            except asyncio.CancelledError:
                # The server's own doing, seconds after it was told to stop, and it would answer with a bare 500.
                if not status:
                    await problems.answer(_LEAVING)(scope, receive, send_marked)
                raise
            finally:
                # Bound on the way, once it was known.
                structlog.contextvars.unbind_contextvars("agent_id")

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        self._metrics.note(scope["method"] if scope["method"] in _METHODS else "OTHER", route, status, seconds)
        if route not in _QUIET:
            log.info("api.request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _route(scope: Scope) -> str:
    route: Any = scope.get("route")
    return str(getattr(route, "path", "")) or "unmatched"


def _mark(message: Message, scope: Scope, request_id: str) -> None:
    headers = MutableHeaders(scope=message)
    headers["X-Request-Id"] = request_id
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("X-Frame-Options", "SAMEORIGIN")
    if scope["path"].startswith("/api/"):
        headers.setdefault("Cache-Control", "no-store")
