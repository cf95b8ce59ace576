"""The connection to an API server, against one that is slow, dead, lying, or has new credentials."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from core.errors import RuntimeRetryable
from core.settings import Kubernetes
from k8s.client import Cluster
from k8s.faults import NotThere, TooOld
from tests.fixtures.api_server import ApiServer, Handler


@pytest.fixture
async def cluster(api_server: ApiServer) -> AsyncIterator[Cluster]:
    made = Cluster(Kubernetes(kubeconfig=api_server.file, request_seconds=0.5))
    yield made
    await made.close()


async def ask(cluster: Cluster) -> dict[str, Any]:
    return await cluster.call("GET", "/api/v1/pods", doing="listing pods")


def says(status: int, body: Any) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return answer


async def test_an_answer_comes_with_the_credentials_of_the_file(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.answer = says(200, {"items": []})
    assert await ask(cluster) == {"items": []}
    assert api_server.asked[0].headers["Authorization"] == "Bearer first"


async def test_a_server_that_is_silent_is_given_up_in_time(api_server: ApiServer, cluster: Cluster) -> None:
    async def never(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    api_server.answer = never
    with pytest.raises(RuntimeRetryable, match="did not answer in time"):
        await ask(cluster)


async def test_where_nobody_listens_the_address_is_named(api_server: ApiServer, tmp_path: Path) -> None:
    api_server.port = 1
    api_server.write()
    lost = Cluster(Kubernetes(kubeconfig=api_server.file))
    with pytest.raises(RuntimeRetryable, match=r"no cluster answers at http://127\.0\.0\.1:1"):
        await ask(lost)
    await lost.close()


async def test_a_connection_that_died_is_made_anew_for_the_same_call(api_server: ApiServer, cluster: Cluster) -> None:
    async def drop_the_first(request: web.BaseRequest) -> web.StreamResponse:
        if len(api_server.asked) == 1:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"items": []})

    api_server.answer = drop_the_first
    assert await cluster.call("POST", "/api/v1/pods", body={"a": 1}, doing="making a pod") == {"items": []}
    assert len(api_server.asked) == 2


async def test_credentials_that_were_renewed_on_disk_are_taken_up(api_server: ApiServer, cluster: Cluster) -> None:
    async def only_the_second(request: web.BaseRequest) -> web.StreamResponse:
        known = request.headers["Authorization"] == "Bearer second"
        return web.json_response({"items": []}, status=200 if known else 401)

    api_server.answer = only_the_second
    with pytest.raises(RuntimeRetryable, match="wrong or have expired"):
        await ask(cluster)
    api_server.write(shown="second")
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


async def test_a_context_that_is_missing_is_named(api_server: ApiServer) -> None:
    with pytest.raises(RuntimeRetryable, match="staging"):
        await ask(Cluster(Kubernetes(kubeconfig=api_server.file, context="staging")))


async def test_what_is_no_kubernetes_is_told_so(api_server: ApiServer, cluster: Cluster) -> None:
    async def page(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<html>welcome</html>")

    api_server.answer = page
    with pytest.raises(RuntimeRetryable, match="no Kubernetes API"):
        await ask(cluster)


async def test_a_watch_tells_each_event_and_ends_with_the_server(api_server: ApiServer, cluster: Cluster) -> None:
    async def events(request: web.BaseRequest) -> web.StreamResponse:
        assert request.query["resourceVersion"] == "5"
        answer = web.StreamResponse()
        await answer.prepare(request)
        large = "x" * 300_000
        await answer.write(json.dumps({"type": "ADDED", "object": {"large": large}}).encode() + b'\n{"type": "DEL')
        await answer.write(b'ETED", "object": {}}\n')
        return answer

    api_server.answer = events
    seen = [
        kind
        async for kind, _ in cluster.watch("/api/v1/pods", doing="watching", query={"resourceVersion": "5"}, seconds=5)
    ]
    assert seen == ["ADDED", "DELETED"]


async def test_a_watch_from_a_forgotten_version_says_so(api_server: ApiServer, cluster: Cluster) -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}

    async def too_old(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=json.dumps({"type": "ERROR", "object": status}) + "\n")

    api_server.answer = too_old
    with pytest.raises(TooOld):
        async for _ in cluster.watch("/api/v1/pods", doing="watching", query={}, seconds=5):
            pass


async def test_a_watch_on_a_connection_that_went_silent_ends(api_server: ApiServer, cluster: Cluster) -> None:
    async def frozen(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await asyncio.sleep(60)
        return answer

    api_server.answer = frozen
    with pytest.raises(RuntimeRetryable, match="did not answer in time"):
        async for _ in cluster.watch("/api/v1/pods", doing="watching", query={}, seconds=60, silence=0.3):
            pass


async def test_what_is_not_there_can_be_told_from_what_is_refused(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.answer = says(404, {"kind": "Status", "code": 404, "reason": "NotFound", "message": "no such pod"})
    with pytest.raises(NotThere):
        await ask(cluster)
