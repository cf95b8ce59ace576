"""A namespace whose quota is used up: who has there what they need goes on, and a newcomer leaves nothing behind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from core.domain.placement import KubernetesTemplate, ProfileClaim
from core.domain.templates import Template
from core.errors import RuntimeFault, RuntimeRetryable
from core.runtime.base import AgentSpec
from core.settings import Auth, DefaultPool, Kubernetes, Settings
from k8s.faults import QUOTA_EXCEEDED
from k8s.runtime import KubernetesRuntime
from tests.fakes.api_server import ApiServer, api_server
from tests.fixtures.kube import NAMESPACE, access

KINDS = ("secrets", "persistentvolumeclaims", "pods", "services")


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with api_server() as serving:
        yield serving


@pytest_asyncio.fixture
async def runtime(server: ApiServer, tmp_path: Path) -> AsyncIterator[KubernetesRuntime]:
    cluster = Kubernetes(kubeconfig=access(tmp_path, server.url), namespace=NAMESPACE, request_seconds=5)
    opened = KubernetesRuntime(Settings(auth=Auth(), pool=DefaultPool(runtime="kubernetes"), kubernetes=cluster))
    yield opened
    await opened.close()


def of(user_id: str, agent_id: str) -> AgentSpec:
    """An agent that keeps its profile."""
    return AgentSpec(
        agent_id=agent_id,
        attempt=1,
        user_id=user_id,
        project_id="shop",
        pool="default",
        template=Template(kubernetes=KubernetesTemplate(profile=ProfileClaim())),
        backend_url="http://127.0.0.1",
        token=SecretStr("t"),
    )


def path(kind: str) -> str:
    return f"/api/v1/namespaces/{NAMESPACE}/{kind}"


async def test_a_new_life_on_a_profile_that_is_there_begins_although_no_more_profiles_are_let_in(
    server: ApiServer, runtime: KubernetesRuntime
) -> None:
    await runtime.create(of("ann", "ag-1"))
    await runtime.delete("ag-1", 1)
    server.used_up.add(path("persistentvolumeclaims"))
    await runtime.create(of("ann", "ag-2"))
    assert (len(server.names(path("pods"))), len(server.names(path("persistentvolumeclaims")))) == (1, 1)
    with pytest.raises(RuntimeRetryable) as refused:
        await runtime.create(of("bob", "ag-3"))
    assert refused.value.error_code == QUOTA_EXCEEDED
    assert {kind: len(server.names(path(kind))) for kind in KINDS} == dict.fromkeys(KINDS, 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_create_that_comes_twice_finds_what_the_first_made_although_that_was_the_last_of_its_kind(
    server: ApiServer, runtime: KubernetesRuntime, kind: str
) -> None:
    first = await runtime.create(of("ann", "ag-1"))
    server.used_up.add(path(kind))
    assert (await runtime.create(of("ann", "ag-1"))).handle == first.handle
    assert {each: len(server.names(path(each))) for each in KINDS} == dict.fromkeys(KINDS, 1)


@pytest.mark.parametrize("status", [403, 422, 500])
async def test_a_pod_whose_service_is_refused_lives_on_and_gets_it_with_a_further_try(
    server: ApiServer, runtime: KubernetesRuntime, status: int
) -> None:
    """Were it removed, its end would be told as that of an agent that had vanished."""
    server.refused[f"POST {path('services')}"] = status
    for _ in range(2):
        with pytest.raises(RuntimeFault):
            await runtime.create(of("ann", "ag-1"))
    (made,) = server.names(path("pods"))
    before = await runtime.observe("ag-1", 1)
    server.refused.clear()
    created = await runtime.create(of("ann", "ag-1"))
    assert (created.handle, created.handle.native["pod"]) == (before.handle, made)
    assert {each: len(server.names(path(each))) for each in KINDS} == dict.fromkeys(KINDS, 1)


@pytest.mark.parametrize("status", [422, 500])
async def test_who_is_refused_a_pod_leaves_nothing_behind(
    server: ApiServer, runtime: KubernetesRuntime, status: int
) -> None:
    server.refused[f"POST {path('pods')}"] = status
    with pytest.raises(RuntimeFault):
        await runtime.create(of("ann", "ag-1"))
    assert (server.names(path("secrets")), server.names(path("services"))) == ([], [])
