"""`berth doctor` with access data that lie, have expired, or lead to a cluster of another version."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from aiohttp import web

from api.cli import watch_checks
from api.cli.verdicts import Check, Verdict
from core.dev.ports import Ports
from core.runtime.base import SharedRuntime
from core.settings import DefaultPool, Kubernetes, Settings, Watch
from temporal.watch import Numbers, served
from tests.fixtures.api_server import ApiServer, Handler
from tests.fixtures.terminal import Cli, Said

TODAY = {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
NODE = {"metadata": {"name": "node-1"}}


def cluster_of(version: dict[str, str], denied: Sequence[dict[str, str]] = ()) -> Handler:
    """One that grants everything but what is `denied`, and says that it is of `version`."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body: dict[str, Any] = {"items": [NODE]} if request.path == "/api/v1/nodes" else {}
        match request.path.rpartition("/")[2]:
            case "version":
                body = version
            case "selfsubjectaccessreviews":
                wanted = (await request.json())["spec"]["resourceAttributes"]
                body = {"status": {"allowed": wanted not in denied}}
            case "configz":
                body = {"kubeletconfig": {"podPidsLimit": 1024}}
            case _:
                pass
        return web.json_response(body)

    return answer


async def doctor(cli: Cli, server: ApiServer) -> Said:
    return await cli.given(KUBERNETES__KUBECONFIG=str(server.file))("doctor", "--runtime", "kubernetes")


def about(said: Said, what: str = "cluster") -> str:
    (line,) = [line for line in said.out.splitlines() if f" {what}: " in line]
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


@pytest.mark.parametrize(
    ("denied", "told"),
    [
        ({"verb": "list", "group": "", "resource": "pods"}, "other namespaces' pods"),
        ({"verb": "list", "group": "", "resource": "resourcequotas", "namespace": "berth-agents"}, "namespace's quota"),
        ({"verb": "list", "group": "metrics.k8s.io", "resource": "nodes"}, "use of the nodes"),
    ],
)
async def test_right_without_which_too_many_may_be_let_in_is_a_note(
    api_server: ApiServer, cli: Cli, denied: dict[str, str], told: str
) -> None:
    api_server.answer = cluster_of(TODAY, [denied])
    said = await doctor(cli, api_server)
    assert said.code == 0, said.out
    line = about(said, "rights")
    assert "note   rights: may not see " in line
    assert told in line
    assert "more agents may be let in than there is room for" in line


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (404, 0, "note   use of nodes: not measured, so what fits decides alone"),
        (503, 1, "lacks  use of nodes: reading it: the cluster answered 503"),
    ],
)
async def test_use_that_is_measured_and_not_told_is_named_before_it_keeps_everybody_waiting(
    api_server: ApiServer, cli: Cli, status: int, code: int, told: str
) -> None:
    usual = cluster_of(TODAY)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/apis/metrics.k8s.io/"):
            return web.json_response({"kind": "Status", "code": status, "message": "not now"}, status=status)
        return await usual(request)

    api_server.answer = answer
    said = await doctor(cli, api_server)
    assert said.code == code, said.out
    assert told in about(said, "use of nodes")


async def test_right_to_look_at_one_machine_is_needed(api_server: ApiServer, cli: Cli) -> None:
    api_server.answer = cluster_of(TODAY, [{"verb": "get", "group": "", "resource": "nodes"}])
    said = await doctor(cli, api_server)
    assert said.code == 1
    assert "may not: get nodes  ->" in about(said, "rights")


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


def lease_of(spec: dict[str, Any] | None) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.path == "/apis/coordination.k8s.io/v1/namespaces/berth-agents/leases/berth-watch-berth"
        if spec is None:
            gone = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            return web.json_response(gone, status=404)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "spec": spec})

    return answer


@pytest.mark.parametrize(
    ("holder", "seconds_ago", "verdict", "told"),
    [
        ("watcher-1", 2, Verdict.OK, "watcher-1 watches"),
        ("watcher-1", 60, Verdict.PROBLEM, "watcher-1 has not said for 6"),
        ("", 2, Verdict.PROBLEM, "nobody watches"),
        (None, 0, Verdict.PROBLEM, "nobody watches"),
    ],
)
async def test_watch_of_a_running_installation_is_told_by_its_lease(
    api_server: ApiServer, holder: str | None, seconds_ago: float, verdict: Verdict, told: str
) -> None:
    renewed = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 10, "renewTime": renewed}
    api_server.answer = lease_of(None if holder is None else spec)
    kubernetes = Kubernetes(kubeconfig=api_server.file)
    (check,) = await watch_checks.examine(Settings(kubernetes=kubernetes, pool=DefaultPool(runtime="kubernetes")))
    assert (check.what, check.verdict) == ("watch of default", verdict)
    assert check.found.startswith(told)


async def test_watch_that_tells_its_age_is_asked_before_the_cluster() -> None:
    class Heard:
        def watch_age(self) -> float | None:
            return 300.0

    numbers = Numbers({"kubernetes": cast(SharedRuntime, Heard())})
    watch = Watch(metrics_port=Ports().pick(0))
    checks: list[Check] = []

    async def lead() -> None:
        settings = Settings(watch=watch, pool=DefaultPool(runtime="kubernetes"))
        checks.extend(await watch_checks.examine(settings))

    with served(numbers, watch):
        await numbers.counted("kubernetes", lead)()
    assert [(check.verdict, check.found) for check in checks] == [
        (Verdict.PROBLEM, "heard of its cluster 300 s ago"),
    ]
