"""What goes wrong with agents in a cluster is seen, told in words, and leaves nothing behind."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.domain.recovery import FailureKind
from core.domain.templates import Resources
from core.errors import NeverSatisfiable, RuntimePermanent, RuntimeRetryable
from core.runtime.base import AgentSpec, Observation, Phase
from k8s.runtime import KubernetesRuntime
from tests.contracts.runtime_suite import watching
from tests.fixtures.kubernetes import SMALL, Land

pytestmark = pytest.mark.needs("cluster")

KEPT = {"profile": {"size": "1Mi", "access_mode": "ReadWriteOnce"}}


def runs(land: Land, placement: dict[str, Any] | None = None, **changes: Any) -> AgentSpec:
    return land.spec(template=land.template(placement, **changes))


async def ended(land: Land, spec: AgentSpec) -> Observation:
    """Make it, and return what a watcher is told at its end; whoever looks later is told the same."""
    runtime = land.open()
    async with watching(runtime) as watch:
        await runtime.create(spec)
        seen = await watch.sees(spec.agent_id, Phase.EXITED)
    later = await runtime.observe(spec.agent_id, 1)
    assert (later.phase, later.failure, later.exit_code) == (Phase.EXITED, seen.failure, seen.exit_code)
    await runtime.delete(spec.agent_id, 1)
    return seen


async def usable(runtime: KubernetesRuntime, spec: AgentSpec) -> None:
    async with watching(runtime) as watch:
        await watch.sees(spec.agent_id, Phase.READY)


async def test_an_image_that_does_not_exist_is_named(land: Land) -> None:
    seen = await ended(land, runs(land, image="localhost/no-such-agent:1"))
    assert seen.failure is FailureKind.IMAGE_PULL
    assert "localhost/no-such-agent:1" in seen.detail


async def test_exit_1_is_a_crash_with_the_code_and_the_last_words(land: Land) -> None:
    seen = await ended(land, runs(land, environment={"TINY_EXIT_AFTER": "200ms", "TINY_EXIT_CODE": "1"}))
    assert (seen.failure, seen.exit_code) == (FailureKind.CRASH, 1)
    assert seen.detail


async def test_an_agent_killed_for_memory_is_told_so(land: Land) -> None:
    seen = await ended(land, runs(land, environment={"TINY_EAT_MIB": "200"}))
    assert (seen.failure, seen.exit_code) == (FailureKind.OUT_OF_MEMORY, 137)
    assert "memory" in seen.detail


async def test_a_template_larger_than_every_node_is_refused_at_once_and_leaves_nothing(land: Land) -> None:
    spec = runs(land, resources=Resources(cpu=1000, memory_mib=512, cpu_limit=1000))
    with pytest.raises(NeverSatisfiable, match="1000 cores"):
        await land.open().create(spec)
    assert land.names() == []


async def test_a_full_quota_of_the_namespace_is_named_and_leaves_nothing(land: Land) -> None:
    land.kubectl("create", "quota", "agents", "--hard=pods=1")
    land.kubectl("wait", "--for=jsonpath={.status.hard.pods}=1", "quota/agents", "--timeout=30s")
    runtime, first, second = land.open(), land.spec(), land.spec()
    await runtime.create(first)
    assert (await runtime.capacity()).fits == 0
    with pytest.raises(RuntimeRetryable, match="the cluster's quota agents is used up") as refused:
        await runtime.create(second)
    assert refused.value.error_code == FailureKind.QUOTA_EXCEEDED
    assert [seen.agent_id for seen in await runtime.list()] == [first.agent_id]
    await runtime.delete(first.agent_id, 1)
    await land.kubectl_prints("0", "get", "quota/agents", "-o", "jsonpath={.status.used.pods}")
    assert (await runtime.capacity()).fits == 1
    await runtime.create(second)
    await runtime.delete(second.agent_id, 1)


@pytest.mark.parametrize("quota", ["persistentvolumeclaims=1", "requests.storage=1Mi"])
async def test_a_full_quota_of_profiles_stops_who_has_none_yet_and_nobody_else(land: Land, quota: str) -> None:
    land.kubectl("create", "quota", "agents", f"--hard={quota}")
    what = quota.partition("=")[0].replace(".", "\\.")
    land.kubectl("wait", f"--for=jsonpath={{.status.used.{what}}}=0", "quota/agents", "--timeout=30s")
    runtime, first, second = land.open(), runs(land, KEPT), runs(land, KEPT)
    await runtime.create(first)
    with pytest.raises(RuntimeRetryable, match="the cluster's quota agents is used up") as refused:
        await runtime.create(second)
    assert refused.value.error_code == FailureKind.QUOTA_EXCEEDED
    assert [seen.agent_id for seen in await runtime.list()] == [first.agent_id]
    await runtime.delete(first.agent_id, 1)
    again = first.model_copy(update={"agent_id": f"{first.agent_id}-again"})
    await runtime.create(again)
    await runtime.delete(again.agent_id, 1)
    await runtime.delete_profile(first.user_id, first.project_id)


async def test_a_pod_that_somebody_deletes_is_gone_and_can_be_cleared_away(land: Land) -> None:
    runtime, spec = land.open(), land.spec()
    await runtime.create(spec)
    await usable(runtime, spec)
    async with watching(runtime) as watch:
        land.kubectl("delete", "pod", "--selector=app=agent", "--grace-period=1")
        gone = await watch.sees(spec.agent_id, Phase.GONE)
    assert (gone.user_id, gone.project_id) == (spec.user_id, spec.project_id)
    # What is left of it is found, or nobody would ever remove it.
    assert [seen.agent_id for seen in await runtime.list()] == [spec.agent_id]
    await runtime.delete(spec.agent_id, 1)
    assert land.names() == []


async def test_a_pod_that_the_rules_of_the_cluster_forbid_is_refused_for_good_and_leaves_nothing(land: Land) -> None:
    with pytest.raises(RuntimePermanent, match="no-such-class"):
        await land.open().create(runs(land, {"priority_class": "no-such-class"}))
    assert land.names() == []


async def test_a_right_that_is_missing_is_named_with_its_verb(land: Land, tmp_path: Path) -> None:
    land.kubectl("create", "serviceaccount", "stranger")
    config = json.loads(land.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["contexts"][0]["context"]["user"] = "stranger"
    file = tmp_path / "kubeconfig"

    def show(token: str) -> None:
        config["users"] = [{"name": "stranger", "user": {"token": token}}]
        file.write_text(json.dumps(config))

    show(land.kubectl("create", "token", "stranger").strip())
    with pytest.raises(RuntimeRetryable, match="stranger may not create secrets") as refused:
        await land.open(kubeconfig=file).create(land.spec())
    assert refused.value.error_code == "cluster_rights_missing"
    show("expired")
    with pytest.raises(RuntimeRetryable, match="does not accept our credentials"):
        await land.open(kubeconfig=file).list()


async def test_deleting_an_agent_leaves_its_profile_alone_of_all_that_was_made(land: Land) -> None:
    runtime = land.open()
    spec = runs(land, {"profile": {"size": "1Mi"}})
    await runtime.create(spec)
    assert [name.partition("/")[0] for name in land.names()] == ["pod", "secret", "service"]
    with pytest.raises(RuntimeRetryable, match="still uses it"):
        await runtime.delete_profile(spec.user_id, spec.project_id)
    await runtime.delete(spec.agent_id, 1)
    assert land.names() == []
    (claim,) = land.names("persistentvolumeclaims")
    assert claim.startswith("persistentvolumeclaim/profile-")
    await runtime.delete_profile(spec.user_id, spec.project_id)
    land.kubectl("wait", "--for=delete", claim, "--timeout=30s")


async def test_whoever_deletes_the_secret_ends_the_agent(land: Land) -> None:
    runtime, spec = land.open(), land.spec()
    await runtime.create(spec)
    async with watching(runtime) as watch:
        land.kubectl("delete", "secret", "--selector=app=agent")
        await watch.sees(spec.agent_id, Phase.GONE)
    await land.kubectl_prints("", "get", "pods,services,secrets", "--selector=app=agent", "-o", "name")


async def test_two_berths_in_one_namespace_see_only_their_own_agents(land: Land) -> None:
    ours, theirs, spec = land.open(), land.open(installation="second"), land.spec()
    await ours.create(spec)
    assert await theirs.list() == []
    assert (await theirs.observe(spec.agent_id, 1)).phase is Phase.GONE
    with pytest.raises(RuntimePermanent, match="belongs to somebody else"):
        await theirs.create(spec)
    before = land.names()
    await theirs.delete(spec.agent_id, 1)
    assert land.names() == before
    assert [seen.agent_id for seen in await ours.list()] == [spec.agent_id]
    await ours.delete(spec.agent_id, 1)


async def test_an_agent_whose_label_somebody_took_off_is_removed_all_the_same(land: Land) -> None:
    runtime, spec = land.open(), land.spec()
    await runtime.create(spec)
    for kind in ("pod", "service", "secret"):
        land.kubectl("label", kind, "--selector=app=agent", "berth.dev/installation-")
    await runtime.delete(spec.agent_id, 1)
    assert land.kubectl("get", "pods,services,secrets", "--selector=app=agent", "-o", "name") == ""


async def test_resources_are_what_the_template_says(land: Land) -> None:
    runtime, spec = land.open(), land.spec()
    await runtime.create(spec)
    pod = json.loads(land.kubectl("get", "pods", "-o", "json"))["items"][0]
    asked = pod["spec"]["containers"][0]["resources"]["requests"]
    assert asked == {"cpu": f"{SMALL.cpu * 1000:g}m", "memory": f"{SMALL.memory_mib}Mi"}
    await runtime.delete(spec.agent_id, 1)
