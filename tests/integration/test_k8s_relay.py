"""Agents that only the API server reaches are reached through it, by whoever knows the way and nobody else."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx2
import pytest
from aiohttp import ClientSession, WSMsgType, web
from pydantic import SecretStr

from core.domain.wire import MAX_MESSAGE_BYTES
from core.errors import RuntimeRetryable
from core.runtime.base import Reach
from core.settings import Kubernetes, ReachBy
from k8s.client import Cluster
from k8s.reach import Ways
from k8s.relay import Relay
from tests.fixtures.api_server import ApiServer

POD = {"metadata": {"name": "agent-a-1", "namespace": "agents"}, "status": {"podIP": "10.0.0.9"}}
BEFORE = "/api/v1/namespaces/agents/pods/agent-a-1"


PACKED = gzip.compress(b"0" * (32 << 20))


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    """64 MiB and then silence, for as long as somebody listens."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(64):
        await answer.write(b"0" * (1 << 20))
    await asyncio.Event().wait()
    return answer


@pytest.fixture
async def reach(api_server: ApiServer) -> AsyncIterator[Reach]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"major": "1"})
        if request.path == f"{BEFORE}:6080/proxy/websockify":
            echo = web.WebSocketResponse()
            await echo.prepare(request)
            async for message in echo:
                await echo.send_bytes(f"{request.query['mode']} {message.data.decode()}".encode())
            return echo
        if request.path == f"{BEFORE}:8080/proxy/execute":
            seen = {"body": await request.json(), "token": request.headers["X-Agent-Token"]}
            return web.json_response(seen, status=409)
        if request.path == f"{BEFORE}:8080/proxy/endless":
            return await endless(request)
        if request.path == f"{BEFORE}:8080/proxy/packed":
            return web.Response(body=PACKED, headers={"Content-Encoding": "gzip"})
        return web.Response(status=418)

    api_server.answer = answer
    cluster = Cluster(Kubernetes(kubeconfig=api_server.file, request_seconds=2))
    relay = Relay(cluster, "agents")
    yield await Ways(ReachBy.PROXY, relay).to(POD, SecretStr("agt"))
    await relay.close()
    await cluster.close()


async def test_a_command_reaches_the_agent_with_its_token_and_the_answer_comes_back(
    reach: Reach, api_server: ApiServer
) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{reach.api_url}/execute",
            json={"command": "click"},
            headers={"X-Agent-Token": "agt", "Authorization": "Bearer of-a-user"},
        )
    assert answer.status_code == 409
    assert answer.json() == {"body": {"command": "click"}, "token": "agt"}
    # The API server hears our own credentials, never the caller's.
    assert api_server.asked[-1].headers["Authorization"] == "Bearer first"


async def test_a_screen_is_carried_both_ways(reach: Reach) -> None:
    async with (
        ClientSession() as session,
        session.ws_connect(f"{reach.desktop_url}/websockify?mode=view", headers={"X-Agent-Token": "agt"}) as screen,
    ):
        await screen.send_bytes(b"RFB")
        message = await screen.receive(timeout=5)
        assert (message.type, message.data) == (WSMsgType.BINARY, b"view RFB")


async def test_an_answer_without_an_end_is_carried_as_far_as_shows_that_it_is_too_large(reach: Reach) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{reach.api_url}/endless")
    assert len(answer.content) == MAX_MESSAGE_BYTES + 1


async def test_a_packed_answer_is_carried_as_it_came(reach: Reach, api_server: ApiServer) -> None:
    async with (
        httpx2.AsyncClient(trust_env=False) as client,
        client.stream("POST", f"{reach.api_url}/packed", headers={"Accept-Encoding": "gzip"}) as answer,
    ):
        assert answer.headers["Content-Encoding"] == "gzip"
        assert b"".join([chunk async for chunk in answer.aiter_raw()]) == PACKED
    assert api_server.asked[-1].headers["Accept-Encoding"] == "identity"


async def test_whoever_does_not_know_the_way_finds_nothing(reach: Reach, api_server: ApiServer) -> None:
    url = httpx2.URL(reach.api_url)
    guessed = url.copy_with(path="/guessed/agent-a-1/8080/execute")
    async with httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.post(guessed)).status_code == 404
    assert url.host == "127.0.0.1"
    assert api_server.asked == []


async def test_a_cluster_that_is_away_is_a_bad_gateway(reach: Reach, api_server: ApiServer) -> None:
    async def gone(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({}, status=503)

    api_server.answer = gone
    async with httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{reach.api_url}/health")).status_code == 502


async def test_a_pod_without_an_address_is_not_there_yet() -> None:
    relay = Relay(Cluster(Kubernetes()), "agents")
    with pytest.raises(RuntimeRetryable, match="no address yet"):
        await Ways(ReachBy.POD, relay).to({"metadata": POD["metadata"], "status": {}}, SecretStr("agt"))


@pytest.mark.parametrize(
    ("by", "address", "url"),
    [
        (ReachBy.POD, "10.0.0.9", "http://10.0.0.9:8080"),
        (ReachBy.POD, "fd00::9", "http://[fd00::9]:8080"),
        (ReachBy.SERVICE, "10.0.0.9", "http://agent-a-1.agents.svc:8080"),
    ],
)
async def test_an_agent_is_reached_by_its_address_or_by_its_name(by: ReachBy, address: str, url: str) -> None:
    found = await Ways(by, Relay(Cluster(Kubernetes()), "agents")).to(
        {**POD, "status": {"podIP": address}}, SecretStr("agt")
    )
    assert found.api_url == url
