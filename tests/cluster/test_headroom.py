"""Placeholders keep room on a node: Berth counts it as free, and agents push them aside."""

from typing import Any

import pytest
import yaml

from core.domain.templates import Resources, Template
from core.runtime.base import Phase
from k8s.cluster.cluster import Cluster
from k8s.runtime import KubernetesRuntime
from tests.capabilities import ROOT
from tests.contracts.runtime_suite import watching
from tests.fixtures.cluster import Kubectl, played_node
from tests.fixtures.kubernetes import Land
from tests.fixtures.stack import eventually

# Whoever needs KWOK first builds it.
pytestmark = [pytest.mark.needs("cluster"), pytest.mark.timeout(600)]

MANIFEST = ROOT / "k8s/manifests/components/headroom/headroom.yaml"
THERE = {"node_selector": {"room": "two"}, "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]}
HALF = Resources(cpu=0.5, memory_mib=512)


@pytest.fixture
def node_for_two(cluster: Cluster) -> Any:
    cluster.start_kwok()
    kubectl, node = Kubectl(cluster), played_node("room-for-two")
    node["metadata"]["labels"]["room"] = "two"
    # A little more than two: what the cluster runs on every node asks for some, too.
    node["status"] = {kind: {"cpu": "1200m", "memory": "4Gi", "pods": "20"} for kind in ("capacity", "allocatable")}
    kubectl.apply(node)
    yield
    kubectl("delete", "node", "room-for-two")


def agents_first(land: Land) -> Template:
    placed = {**THERE, "priority_class": "berth-agents-first", "topology_spread": None}
    return land.template(placed, resources=HALF)


def headroom(land: Land) -> list[dict[str, Any]]:
    """As the component has it, but on the node of the test."""
    *classes, deployment = yaml.safe_load_all(MANIFEST.read_text())
    deployment["metadata"]["namespace"] = land.namespace
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = land.tiny
    pod.update(nodeSelector=THERE["node_selector"], tolerations=THERE["tolerations"])
    return [*classes, deployment]


async def phases(land: Land, expected: str) -> None:
    selected = ("get", "pods", "--selector=berth.dev/placeholder", "--sort-by=.status.phase")
    await land.kubectl_prints(expected, *selected, "-o", "jsonpath={.items[*].status.phase}")


async def fit(runtime: KubernetesRuntime, agents: int) -> None:
    """Wait for a look that counts so many places: on a busy machine one is used again for a while."""

    async def seen() -> bool:
        return (await runtime.capacity()).fits == agents

    await eventually(seen, f"places for {agents}")


async def test_agent_takes_the_room_that_a_placeholder_kept(land: Land, node_for_two: None) -> None:
    land.kubectl.apply(*headroom(land))
    await phases(land, "Running Running")
    template = agents_first(land)
    runtime = KubernetesRuntime(land.settings().model_copy(update={"templates": {"default": template}}))
    land.opened.append(runtime)
    await fit(runtime, 2)
    spec = land.spec(template=template)
    async with watching(runtime) as watch:
        await runtime.create(spec)
        await watch.sees(spec.agent_id, Phase.READY)
    await phases(land, "Pending Running")
    await fit(runtime, 1)
    await runtime.delete(spec.agent_id, 1)
    await phases(land, "Running Running")
    land.kubectl("delete", "deployment/berth-headroom")
    land.kubectl("delete", "priorityclass", "berth-placeholders", "berth-agents-first")
