"""Traces: what one request led to, from the API to the runtime. Nothing of it is imported unless an endpoint is set."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from core.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

log = structlog.get_logger()
# The variables of OpenTelemetry's own; its exporter reads them, with headers, certificates and sampling.
_STANDARD = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PATH = "/v1/traces"
_SEND_SECONDS = 5.0


class Traces:
    """Spans of one part, sent in the background; what a collector does not take is dropped."""

    def __init__(self, provider: "TracerProvider") -> None:
        from temporalio.contrib.opentelemetry import TracingInterceptor

        self._provider = provider
        self.tracer: Tracer = provider.get_tracer("berth", version("berth"))
        # On a client it also serves the workers that are made with it.
        self.interceptor: TracingInterceptor = TracingInterceptor(self.tracer)

    async def close(self) -> None:
        """Send what is left, for some seconds at most."""
        await asyncio.to_thread(self._provider.shutdown)


@asynccontextmanager
async def tracing(
    settings: Settings, part: str, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[Traces | None]:
    """Traces of the service `berth-{part}` while the block runs; None where no endpoint is set."""
    endpoint = settings.tracing.endpoint
    if endpoint is None and not any(environment.get(name) for name in _STANDARD):
        yield None
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    service = f"berth-{part}"
    where = None if endpoint is None else f"{endpoint.rstrip('/')}{_PATH}"
    resource = Resource.create({"service.name": service, "service.version": version("berth")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=where, timeout=_SEND_SECONDS)))
    log.info("traces.sent", service=service, endpoint=where or "as OTEL_EXPORTER_OTLP_ENDPOINT says")
    traces = Traces(provider)
    try:
        yield traces
    finally:
        await traces.close()
