"""A pod gets other limits while it runs, and an agent goes to another node of a real cluster, or is told why not."""

import json
from typing import Any

import pytest

from core.domain.sizes import Size
from core.errors import RuntimePermanent, RuntimeRetryable
from core.runtime.base import AgentSpec, Phase
from k8s.names import profile_name
from k8s.runtime import KubernetesRuntime
from tests.contracts.runtime_suite import watching
from tests.fixtures import limits
from tests.fixtures.kubernetes import SMALL, Land

pytestmark = pytest.mark.needs("cluster")
KEPT = {"profile": {"size": "1Mi", "access_mode": "ReadWriteOnce"}}


async def usable(runtime: KubernetesRuntime, spec: AgentSpec) -> None:
    async with watching(runtime) as watch:
        await watch.sees(spec.agent_id, Phase.READY, spec.attempt)


async def begun(land: Land, placement: dict[str, Any] | None = None, **changes: Any) -> tuple[Any, AgentSpec]:
    """A runtime, and what runs in it."""
    runtime, spec = land.open(), land.spec(template=land.template(placement, **changes))
    await runtime.create(spec)
    await usable(runtime, spec)
    return runtime, spec


def container(land: Land) -> dict[str, Any]:
    """The status of the only agent's container."""
    (pod,) = json.loads(land.kubectl("get", "pods", "--selector=app=agent", "-o", "json"))["items"]
    (status,) = pod["status"]["containerStatuses"]
    return {**status, "class": pod["status"]["qosClass"]}


async def test_other_limits_are_in_the_containers_cgroup_and_the_container_goes_on(land: Land) -> None:
    runtime, spec = await begun(land)
    before = container(land)
    (pid,) = limits.pids_in(before["containerID"].removeprefix("containerd://"))
    assert (limits.memory_mib(pid), limits.cores(pid)) == (SMALL.memory_limit_mib, SMALL.cpu_limit)
    for cpu, memory in ((1.5, 128), (0.5, 48)):
        resized = await runtime.resize(spec.agent_id, 1, Size(cpu=cpu, memory_mib=memory))
        assert resized.waits_for == ""
        assert (limits.memory_mib(pid), limits.cores(pid)) == (memory, cpu)
    after = container(land)
    assert after["restartCount"] == 0
    assert [after[what] for what in ("containerID", "state", "class")] == [
        before[what] for what in ("containerID", "state", "class")
    ]
    await runtime.delete(spec.agent_id, 1)


async def test_less_memory_than_it_uses_is_put_off_in_words_and_kills_nothing(land: Land) -> None:
    runtime, spec = await begun(land, environment={"TINY_EAT_MIB": "40"})
    resized = await runtime.resize(spec.agent_id, 1, Size(cpu=1, memory_mib=20))
    assert "memory" in resized.waits_for
    assert container(land)["state"].keys() == {"running"}
    assert (await runtime.observe(spec.agent_id, 1)).phase is Phase.READY
    # Taken back, it is as if nothing had been.
    again = await runtime.resize(spec.agent_id, 1, Size(cpu=1, memory_mib=64))
    assert again.waits_for == ""
    await runtime.delete(spec.agent_id, 1)


async def test_limits_that_would_change_its_class_or_break_a_quota_are_refused_in_words(land: Land) -> None:
    runtime, spec = await begun(land)
    with pytest.raises(RuntimePermanent, match="quality of service"):
        await runtime.resize(spec.agent_id, 1, Size(cpu=SMALL.cpu, memory_mib=SMALL.memory_mib))
    land.kubectl("create", "quota", "agents", "--hard=limits.memory=100Mi")
    land.kubectl("wait", "--for=jsonpath={.status.used.limits\\.memory}=64Mi", "quota/agents", "--timeout=30s")
    with pytest.raises(RuntimeRetryable, match="the cluster's quota agents is used up"):
        await runtime.resize(spec.agent_id, 1, Size(cpu=1, memory_mib=128))
    assert container(land)["resources"]["limits"]["memory"] == "64Mi"
    await runtime.delete(spec.agent_id, 1)


async def test_agent_goes_to_the_other_node_when_its_profile_can(land: Land) -> None:
    runtime, spec = await begun(land, KEPT)
    node = await runtime.elsewhere(spec.agent_id, 1, spec.template)
    assert (await runtime.observe(spec.agent_id, 1)).node == node
    await runtime.delete(spec.agent_id, 1)
    moved = spec.model_copy(update={"attempt": 2, "away_from": node})
    await runtime.create(moved)
    await usable(runtime, moved)
    assert (await runtime.observe(spec.agent_id, 2)).node not in {node, ""}
    await runtime.delete(spec.agent_id, 2)


async def test_agent_whose_profile_goes_with_its_pod_is_not_moved(land: Land) -> None:
    runtime, spec = await begun(land)
    with pytest.raises(RuntimePermanent, match="keeps no profile"):
        await runtime.elsewhere(spec.agent_id, 1, spec.template)
    await runtime.delete(spec.agent_id, 1)


async def test_agent_whose_volume_one_node_alone_can_reach_is_not_moved(land: Land) -> None:
    template = land.template({"profile": {**KEPT["profile"], "storage_class": land.namespace}})
    runtime, spec = land.open(), land.spec(template=template)
    node = land.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}").strip()
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    claim = {"namespace": land.namespace, "name": profile_name("berth", spec.user_id, spec.project_id)}
    land.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": land.namespace},
            "spec": {
                "capacity": {"storage": "1Mi"},
                "accessModes": ["ReadWriteOnce"],
                "claimRef": claim,
                "storageClassName": land.namespace,
                "hostPath": {"path": f"/tmp/{land.namespace}", "type": "DirectoryOrCreate"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        }
    )
    try:
        await runtime.create(spec)
        await usable(runtime, spec)
        with pytest.raises(RuntimePermanent, match="cannot reach the volume of its profile"):
            await runtime.elsewhere(spec.agent_id, 1, spec.template)
        await runtime.delete(spec.agent_id, 1)
    finally:
        land.kubectl("delete", "persistentvolume", land.namespace, "--wait=false")


async def test_agent_stays_when_the_other_node_is_closed(land: Land) -> None:
    runtime, spec = await begun(land, KEPT)
    here = (await runtime.observe(spec.agent_id, 1)).node
    nodes = land.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()
    (other,) = set(nodes) - {here}
    land.kubectl("cordon", other)
    try:
        with pytest.raises(RuntimePermanent, match=f"no other machine would take it: {other} is closed"):
            await runtime.elsewhere(spec.agent_id, 1, spec.template)
    finally:
        land.kubectl("uncordon", other)
    await runtime.delete(spec.agent_id, 1)
