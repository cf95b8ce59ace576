"""`berth doctor` with access data that lie, have expired, or lead to a cluster of another version."""

from typing import Any

import pytest
from aiohttp import web

from tests.fixtures.api_server import ApiServer, Handler
from tests.fixtures.terminal import Cli, Said

NODE = {"metadata": {"name": "node-1"}}


def cluster_of(version: dict[str, str]) -> Handler:
    """One that grants everything and says that it is of `version`."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body: dict[str, Any] = {"items": [NODE]} if request.path == "/api/v1/nodes" else {}
        match request.path.rpartition("/")[2]:
            case "version":
                body = version
            case "selfsubjectaccessreviews":
                body = {"status": {"allowed": True}}
            case "configz":
                body = {"kubeletconfig": {"podPidsLimit": 1024}}
        return web.json_response(body)

    return answer


async def doctor(cli: Cli, server: ApiServer) -> Said:
    return await cli.given(KUBERNETES__KUBECONFIG=str(server.file))("doctor", "--runtime", "kubernetes")


def about(said: Said) -> str:
    (line,) = [line for line in said.out.splitlines() if " cluster: " in line]
    return line


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ({"major": "1", "minor": "27", "gitVersion": "v1.27.16"}, "v1.27.16  -> use one of 1.30 or newer"),
        ({"major": "1", "minor": "29+", "gitVersion": "v1.29.9-eks-1"}, "v1.29.9-eks-1  -> use one of 1.30 or newer"),
        ({}, "of no known version  -> use one of 1.30 or newer"),
    ],
)
async def test_cluster_of_a_version_that_is_too_old_is_named_in_one_line(
    api_server: ApiServer, cli: Cli, version: dict[str, str], told: str
) -> None:
    api_server.answer = cluster_of(version)
    said = await doctor(cli, api_server)
    assert said.code == 1
    assert about(said).endswith(f"lacks  cluster: Kubernetes {told}")


@pytest.mark.parametrize("minor", ["30", "34", "41+"])
async def test_cluster_that_is_newer_than_the_oldest_is_taken(api_server: ApiServer, cli: Cli, minor: str) -> None:
    api_server.answer = cluster_of({"major": "1", "minor": minor, "gitVersion": f"v1.{minor}"})
    said = await doctor(cli, api_server)
    assert said.code == 0, said.out
    assert about(said).endswith(f"ok     cluster: Kubernetes v1.{minor}")


async def test_access_data_that_have_expired_are_named_in_one_line(api_server: ApiServer, cli: Cli) -> None:
    async def refuses(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "reason": "Unauthorized", "code": 401}, status=401)

    api_server.answer = refuses
    said = await doctor(cli, api_server)
    assert said.code == 1
    assert "our credentials: they are wrong or have expired  -> correct KUBECONFIG" in about(said)


async def test_access_data_that_lead_nowhere_are_named_in_one_line(api_server: ApiServer, cli: Cli) -> None:
    api_server.port = 1
    api_server.write()
    said = await doctor(cli, api_server)
    assert said.code == 1
    assert "no cluster answers at http://127.0.0.1:1" in about(said)
