"""Traces of a real stack, as a collector gets them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.fixtures.stack import eventually, local_stack


class Collector:
    """Takes what is sent by OTLP over HTTP, and keeps it."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[tuple[str, Span]] = []

    async def take(self, request: web.Request) -> web.Response:
        for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            (service,) = [
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            ]
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    def named(self, name: str) -> list[tuple[str, Span]]:
        return [(service, span) for service, span in self.spans if span.name == name]


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    taken, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", taken.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    taken.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield taken
    finally:
        await runner.cleanup()


@pytest.mark.timeout(300)
async def test_start_of_an_agent_is_one_trace_from_the_request_to_the_runtime(
    collector: Collector, tmp_path: Path
) -> None:
    caller = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with local_stack(tmp_path / "data", TRACING__ENDPOINT=collector.url) as stack:
        ann = await stack.user("ann", "shop")
        answer = await ann.ask(
            "POST",
            "/api/projects/shop/start-agent",
            headers={"traceparent": f"00-{caller}-00f067aa0ba902b7-01"},
        )
        await ann.until(answer.json()["agent"]["agentId"], "running")

        async def sent() -> bool:
            return bool(collector.named("RunActivity:mark_running") and collector.named("GET /api/agents/{agentId}"))

        await eventually(sent, "the spans to be sent")
    ((service, request),) = collector.named("POST /api/projects/{projectId}/start-agent")
    assert (service, request.trace_id.hex(), request.kind) == ("berth-api", caller, Span.SPAN_KIND_SERVER)
    for activity in ("register", "create_agent", "mark_running"):
        ((service, span),) = collector.named(f"RunActivity:{activity}")
        assert (service, span.trace_id) == ("berth-worker", request.trace_id), activity
    assert all(span.trace_id != request.trace_id for _, span in collector.named("GET /api/agents/{agentId}"))


async def test_nothing_is_imported_for_traces_unless_an_endpoint_is_set(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BERTH_", "OTEL_"))}
    program = (
        "import asyncio, sys, api.app, temporal.worker\n"
        "from core.settings import Settings\n"
        "from temporal.tracing import tracing\n"
        "async def main():\n"
        "    async with tracing(Settings(), 'api') as traces:\n"
        # FastAPI itself imports the API package, which does nothing without the SDK.
        "        print(traces, [name for name in sys.modules if name.startswith('opentelemetry.sdk')])\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=tmp_path, stdout=asyncio.subprocess.PIPE, env=environment
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.decode().splitlines()[-1]) == (0, "None []")
