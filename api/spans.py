"""A span around every request, in the trace of whoever asks where they say which."""

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_QUIET = frozenset({"/health", "/ready", "/metrics"})
_HEADERS = frozenset({b"traceparent", b"tracestate"})


class Spans:
    """ASGI middleware; names the route's template, never the path."""

    def __init__(self, app: ASGIApp, tracer: "Tracer") -> None:
        self._app = app
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        carried = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
        asked = {"http.request.method": scope["method"]}
        with self._tracer.start_as_current_span(
            scope["method"], self._propagator.extract(carried), SpanKind.SERVER, asked, record_exception=False
        ) as span:

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route: Any = getattr(scope.get("route"), "path", None)
                    if route is not None:
                        span.update_name(f"{scope['method']} {route}")
                        span.set_attribute("http.route", route)
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, send_noted)
