"""How much room a cluster has, as its API server tells it, and what an answer means that does not come."""

from collections.abc import Callable
from typing import Any

import pytest

from core.domain.placement import KubernetesTemplate
from core.domain.templates import Template
from core.errors import RuntimeRetryable
from core.settings import DefaultPool, Kubernetes, Settings
from k8s.room import Room
from k8s.space import Space
from tests.fakes.pods import condition
from tests.fixtures.kube import NAMESPACE, NODES, PODS, Kube, SmallKube

EVERYBODYS = "/api/v1/pods"
QUOTAS = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas"
METRICS = "/apis/metrics.k8s.io/v1beta1/nodes"
OTHERS = "/api/v1/namespaces/default/pods"


def room(kube: Kube, clock: Callable[[], float] = lambda: 0.0) -> Room:
    """Of agents of half a core each. Nothing takes long, whatever else the machine does, unless the clock says so."""
    settings = Settings(pool=DefaultPool(runtime="kubernetes"), kubernetes=Kubernetes(namespace=NAMESPACE))
    return Room(Space(kube.cluster(), NAMESPACE), settings, clock)


async def machine(kube: Kube, cores: int = 2) -> None:
    has = {"cpu": str(cores), "memory": f"{4 * cores}Gi", "pods": "1000"}
    status = {"capacity": has, "allocatable": has, "conditions": [condition("Ready", "True")]}
    await kube.set_status(NODES, "node-1", status)


def pod(name: str, cpu: str = "500m", **status: Any) -> dict[str, Any]:
    """Anybody's, on the machine."""
    container = {"name": "main", "image": "image", "resources": {"requests": {"cpu": cpu}}}
    spec = {"nodeName": "node-1", "containers": [container]}
    return {"metadata": {"name": name}, "spec": spec, "status": status or {"phase": "Running"}}


def asked(kube: SmallKube, path: str) -> int:
    return kube.server.asked.count(f"GET {path}")


# ---- an answer that does not come ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("path", [EVERYBODYS, QUOTAS, METRICS])
async def test_server_that_only_fails_to_answer_is_not_taken_for_one_without_others(
    small: SmallKube, path: str, status: int
) -> None:
    await machine(small)
    looks = room(small)
    await small.create(OTHERS, pod("theirs", cpu="1"))
    await small.create(QUOTAS, {"metadata": {"name": "agents"}, "status": {"hard": {"pods": "1"}}})
    used = {"metadata": {"name": "node-1"}, "usage": {"cpu": "1", "memory": "6Gi"}}
    await small.create(METRICS, used)
    small.server.refused[f"GET {path}"] = status
    with pytest.raises(RuntimeRetryable):
        await looks.capacity()
    small.server.refused.clear()
    seen = await looks.capacity()
    assert (seen.fits, seen.memory_percent) == (1, 75)
    await small.delete(QUOTAS, "agents")
    assert (await looks.capacity()).fits == 2


async def test_where_we_may_not_look_what_may_be_seen_is_counted_and_nobody_asks_each_time(small: SmallKube) -> None:
    await machine(small)
    await small.create(PODS, pod("here"))
    await small.create(OTHERS, pod("theirs"))
    for path, status in ((EVERYBODYS, 403), (QUOTAS, 403), (METRICS, 404)):
        small.server.refused[f"GET {path}"] = status
    looks = room(small)
    for _ in range(3):
        seen = await looks.capacity()
        assert (seen.fits, seen.memory_percent) == (3, None)
    assert [asked(small, path) for path in (EVERYBODYS, QUOTAS, METRICS)] == [1, 1, 1]


# ---- large clusters ------------------------------------------------------------------------------------------------


async def test_pods_that_have_ended_are_not_even_asked_for_and_the_others_come_in_pages(small: SmallKube) -> None:
    await machine(small, cores=100)
    for number in range(101):
        await small.create(OTHERS, pod(f"lives-{number}"))
    for number in range(150):
        await small.create(OTHERS, pod(f"ended-{number}", phase="Failed" if number % 2 else "Succeeded"))
    assert (await room(small).capacity()).fits == 99
    assert asked(small, EVERYBODYS) == 2


async def test_agents_that_live_are_counted(kube: Kube) -> None:
    for agent_id, phase in (("ag-1", "Running"), ("ag-2", "Succeeded"), ("ag-3", "Failed"), ("ag-4", "Pending")):
        await kube.make(agent_id, phase=phase)
    assert (await room(kube).capacity()).agents == 2


# ---- looks that take long ------------------------------------------------------------------------------------------


async def test_look_that_took_long_is_told_again_for_a_while_and_says_how_old_it_is(small: SmallKube) -> None:
    await machine(small)
    rested = 0.0
    looks = room(small, clock=lambda: rested + 10 * asked(small, NODES))  # so long takes each
    first = await looks.capacity()
    rested = 19.0
    assert await looks.capacity() == first
    rested = 21.0
    second = await looks.capacity()
    assert first.looked_at is not None
    assert second.looked_at is not None
    assert second.looked_at > first.looked_at


async def test_look_that_took_a_moment_is_made_anew_each_time(small: SmallKube) -> None:
    await machine(small)
    looks = room(small)
    assert (await looks.capacity()).fits == 4
    await small.create(PODS, pod("here"))
    assert (await looks.capacity()).fits == 3


# ---- templates that ask for different things -----------------------------------------------------------------------


async def test_each_template_is_counted_where_it_may_run_and_who_is_there_is_named(small: SmallKube) -> None:
    await machine(small)
    there, waiting = pod("there"), pod("waiting", cpu="1")
    for each, agent_id in ((there, "ag-1"), (waiting, "ag-2")):
        each["metadata"]["labels"] = {"app": "agent", "berth.dev/installation": "berth"}
        each["metadata"]["annotations"] = {"berth.dev/agent-id": agent_id, "berth.dev/attempt": "1"}
    waiting["spec"] |= {"nodeName": "", "nodeSelector": {"kind": "other"}}
    await small.create(PODS, there)
    await small.create(PODS, waiting)
    elsewhere = Template(kubernetes=KubernetesTemplate(node_selector={"kind": "other"}))
    seen = await room(small).capacity({"usual": Template(), "elsewhere": elsewhere})
    assert seen.fits_of == {"usual": 3, "elsewhere": 0}, "one that waits for another node takes no place on this one"
    assert (seen.agents, set(seen.here)) == (2, {"ag-1", "ag-2"})
