"""The connection to an API server, against one that is slow, dead, lying, or has new credentials."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from core.errors import RuntimeRetryable
from core.settings import Kubernetes
from k8s.client import Cluster
from k8s.faults import NotThere, TooOld

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Server:
    """Answers every request with `answer`, and counts them."""

    def __init__(self, folder: Path) -> None:
        self.answer: Handler | None = None
        self.asked: list[web.BaseRequest] = []
        self.file = folder / "kubeconfig"
        self.port = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        assert self.answer is not None
        return await self.answer(request)

    def write(self, shown: str = "first") -> None:
        named = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [named],
            "users": [{"name": "u", "user": {"token": shown}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        self.file.write_text(json.dumps(config))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    runner = web.ServerRunner(web.Server(made), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    made.write()
    yield made
    await runner.cleanup()


@pytest.fixture
async def cluster(server: Server) -> AsyncIterator[Cluster]:
    made = Cluster(Kubernetes(kubeconfig=server.file, request_seconds=0.5))
    yield made
    await made.close()


async def ask(cluster: Cluster) -> dict[str, Any]:
    return await cluster.call("GET", "/api/v1/pods", doing="listing pods")


def says(status: int, body: Any) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return answer


async def test_an_answer_comes_with_the_credentials_of_the_file(server: Server, cluster: Cluster) -> None:
    server.answer = says(200, {"items": []})
    assert await ask(cluster) == {"items": []}
    assert server.asked[0].headers["Authorization"] == "Bearer first"


async def test_a_server_that_is_silent_is_given_up_in_time(server: Server, cluster: Cluster) -> None:
    async def never(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    server.answer = never
    with pytest.raises(RuntimeRetryable, match="did not answer in time"):
        await ask(cluster)


async def test_where_nobody_listens_the_address_is_named(server: Server, tmp_path: Path) -> None:
    server.port = 1
    server.write()
    lost = Cluster(Kubernetes(kubeconfig=server.file))
    with pytest.raises(RuntimeRetryable, match=r"no cluster answers at http://127\.0\.0\.1:1"):
        await ask(lost)
    await lost.close()


async def test_a_connection_that_died_is_made_anew_for_the_same_call(server: Server, cluster: Cluster) -> None:
    async def drop_the_first(request: web.BaseRequest) -> web.StreamResponse:
        if len(server.asked) == 1:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"items": []})

    server.answer = drop_the_first
    assert await cluster.call("POST", "/api/v1/pods", body={"a": 1}, doing="making a pod") == {"items": []}
    assert len(server.asked) == 2


async def test_credentials_that_were_renewed_on_disk_are_taken_up(server: Server, cluster: Cluster) -> None:
    async def only_the_second(request: web.BaseRequest) -> web.StreamResponse:
        known = request.headers["Authorization"] == "Bearer second"
        return web.json_response({"items": []}, status=200 if known else 401)

    server.answer = only_the_second
    with pytest.raises(RuntimeRetryable, match="wrong or have expired"):
        await ask(cluster)
    server.write(shown="second")
    assert await ask(cluster) == {"items": []}


@pytest.mark.parametrize(
    "text", ["", "not: [yaml", "{}", '{"clusters": 5}', '{"current-context": "x", "contexts": [], "clusters": []}']
)
async def test_a_kubeconfig_that_lies_is_named_and_tried_again(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(RuntimeRetryable, match=f"access data .*{file}.* cannot be used"):
        await ask(Cluster(Kubernetes(kubeconfig=file)))


async def test_a_kubeconfig_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeRetryable, match="nowhere"):
        await ask(Cluster(Kubernetes(kubeconfig=tmp_path / "nowhere")))


async def test_a_context_that_is_missing_is_named(server: Server) -> None:
    with pytest.raises(RuntimeRetryable, match="staging"):
        await ask(Cluster(Kubernetes(kubeconfig=server.file, context="staging")))


async def test_what_is_no_kubernetes_is_told_so(server: Server, cluster: Cluster) -> None:
    async def page(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<html>welcome</html>")

    server.answer = page
    with pytest.raises(RuntimeRetryable, match="no Kubernetes API"):
        await ask(cluster)


async def test_a_watch_tells_each_event_and_ends_with_the_server(server: Server, cluster: Cluster) -> None:
    async def events(request: web.BaseRequest) -> web.StreamResponse:
        assert request.query["resourceVersion"] == "5"
        answer = web.StreamResponse()
        await answer.prepare(request)
        large = "x" * 300_000
        await answer.write(json.dumps({"type": "ADDED", "object": {"large": large}}).encode() + b'\n{"type": "DEL')
        await answer.write(b'ETED", "object": {}}\n')
        return answer

    server.answer = events
    seen = [
        kind
        async for kind, _ in cluster.watch("/api/v1/pods", doing="watching", query={"resourceVersion": "5"}, seconds=5)
    ]
    assert seen == ["ADDED", "DELETED"]


async def test_a_watch_from_a_forgotten_version_says_that_it_is_too_old(server: Server, cluster: Cluster) -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}

    async def too_old(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=json.dumps({"type": "ERROR", "object": status}) + "\n")

    server.answer = too_old
    with pytest.raises(TooOld):
        async for _ in cluster.watch("/api/v1/pods", doing="watching", query={}, seconds=5):
            pass


async def test_a_watch_on_a_connection_that_went_silent_ends(server: Server, cluster: Cluster) -> None:
    async def frozen(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await asyncio.sleep(60)
        return answer

    server.answer = frozen
    with pytest.raises(RuntimeRetryable, match="did not answer in time"):
        async for _ in cluster.watch("/api/v1/pods", doing="watching", query={}, seconds=60, silence=0.3):
            pass


async def test_what_is_not_there_can_be_told_from_what_is_refused(server: Server, cluster: Cluster) -> None:
    server.answer = says(404, {"kind": "Status", "code": 404, "reason": "NotFound", "message": "no such pod"})
    with pytest.raises(NotThere):
        await ask(cluster)
