"""What is made for an agent in a cluster: hardened, owned, labelled, and without a secret in plain sight."""

import json
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from core.domain.environment import ModelAccess
from core.domain.placement import (
    AccessMode,
    KubernetesTemplate,
    LoadBalancer,
    ProfileClaim,
    ReadyBy,
    Spread,
    Toleration,
)
from core.domain.templates import Resources, Template
from core.domain.timings import Timings
from core.runtime.base import AgentSpec
from k8s import marks, objects
from k8s.names import attempt_name, label_value, profile_name

OWNER = {"kind": "Secret", "metadata": {"name": "agent-ag-1-2", "uid": "u-1"}}


def spec(**changes: Any) -> AgentSpec:
    base = AgentSpec(
        agent_id="ag-1",
        attempt=2,
        user_id="ann/../ü",
        project_id="shop",
        pool="default",
        template=Template(),
        backend_url="http://api.berth:8000",
        token=SecretStr("agt_secret"),
        model=ModelAccess(base_url="http://models/v1", model="m", api_key=SecretStr("key-of-the-model")),
    )
    return base.model_copy(update=changes)


def placed(**wanted: Any) -> AgentSpec:
    return spec(template=Template(kubernetes=KubernetesTemplate(**wanted)))


def pod(wanted: AgentSpec | None = None) -> dict[str, Any]:
    return objects.pod(wanted or spec(), "berth", OWNER, Timings())


def environment(made: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in made["spec"]["containers"][0]["env"]}


def test_a_pod_is_what_the_restricted_level_asks_and_more() -> None:
    made = pod()["spec"]
    assert made["restartPolicy"] == "Never"
    assert made["automountServiceAccountToken"] is False
    assert made["enableServiceLinks"] is False
    who = made["securityContext"]
    assert (who["runAsNonRoot"], who["runAsUser"], who["fsGroup"]) == (True, 10001, 10001)
    assert who["seccompProfile"] == {"type": "Localhost", "localhostProfile": "agent.json"}
    (container,) = made["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    volumes = {volume["name"]: volume for volume in made["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "256Mi"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/dev/shm", "/profile"}
    assert not any("hostPath" in volume for volume in made["volumes"])


def test_secrets_are_in_the_secret_alone() -> None:
    made = spec()
    assert objects.secret(made, "berth")["stringData"] == {"token": "agt_secret", "llm-api-key": "key-of-the-model"}
    rest = json.dumps([pod(), objects.service(made, "berth", OWNER)])
    assert "agt_secret" not in rest
    assert "key-of-the-model" not in rest
    seen = environment(pod())
    assert seen["AGENT_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "agent-ag-1-2"
    assert seen["LLM_API_KEY"]["valueFrom"]["secretKeyRef"]["key"] == "llm-api-key"


def test_a_template_cannot_put_a_token_of_its_own_in_the_agents_place() -> None:
    sly = spec(template=Template(environment={"AGENT_TOKEN": "mine", "AGENT_ID": "other", "GREETING": "hello"}))
    names = [each["name"] for each in pod(sly)["spec"]["containers"][0]["env"]]
    assert len(names) == len(set(names))
    seen = environment(pod(sly))
    assert "value" not in seen["AGENT_TOKEN"]
    assert seen["AGENT_ID"]["value"] == "ag-1"
    assert seen["GREETING"]["value"] == "hello"


def test_an_id_cannot_fetch_a_variable_of_the_pod() -> None:
    seen = environment(pod(spec(user_id="$(AGENT_TOKEN)")))
    assert seen["USER_ID"]["value"] == "$$(AGENT_TOKEN)"


def test_the_secret_owns_pod_and_service_so_that_its_end_is_theirs() -> None:
    owner = {"apiVersion": "v1", "kind": "Secret", "name": "agent-ag-1-2", "uid": "u-1"}
    assert pod()["metadata"]["ownerReferences"] == [owner]
    assert objects.service(spec(), "berth", OWNER)["metadata"]["ownerReferences"] == [owner]
    assert "ownerReferences" not in objects.secret(spec(), "berth")["metadata"]


def test_a_profile_has_a_volume_of_its_own_that_nobody_owns() -> None:
    kept = placed(profile=ProfileClaim(size="2Gi", storage_class="fast"))
    claim = objects.claim(kept, ProfileClaim(size="2Gi", storage_class="fast"), "berth")
    name = profile_name("berth", kept.user_id, kept.project_id)
    assert claim["metadata"]["name"] == name
    assert "ownerReferences" not in claim["metadata"]
    assert claim["spec"]["accessModes"] == [AccessMode.ONE_POD.value]
    assert claim["spec"]["storageClassName"] == "fast"
    volumes = {volume["name"]: volume for volume in pod(kept)["spec"]["volumes"]}
    assert volumes["profile"]["persistentVolumeClaim"] == {"claimName": name}
    # The agent's own objects are found by app=agent; a claim must not be taken for one.
    assert claim["metadata"]["labels"]["app"] != marks.APP


def test_all_that_is_made_says_whose_it_is() -> None:
    for made in (pod(), objects.secret(spec(), "berth"), objects.service(spec(), "berth", OWNER)):
        labels = made["metadata"]["labels"]
        assert made["metadata"]["name"] == attempt_name("ag-1", 2)
        assert (labels["app"], labels["agentId"], labels["projectId"]) == ("agent", "ag-1", "shop")
        assert labels["userId"] == label_value("ann/../ü")
        for wanted in marks.selector("berth", agent_id="ag-1").split(","):
            key, _, value = wanted.partition("=")
            assert labels[key] == value
        found = marks.of(made)
        assert found is not None
        assert (found.agent_id, found.attempt, found.user_id) == ("ag-1", 2, "ann/../ü")


def test_a_service_leads_to_its_attempt_alone() -> None:
    selected = objects.service(spec(), "berth", OWNER)["spec"]["selector"]
    assert selected.items() <= pod()["metadata"]["labels"].items()
    assert not selected.items() <= pod(spec(attempt=3))["metadata"]["labels"].items()


def test_an_agent_is_reached_from_outside_the_cluster_only_where_its_template_says_so() -> None:
    usual = objects.service(spec(), "berth", OWNER)["spec"]
    assert (usual["clusterIP"], "type" in usual) == ("None", False)
    mine = {"cloud/internal": "true", "berth.dev/agent-id": "another"}
    wanted = LoadBalancer.model_validate({"annotations": mine, "source_ranges": ["198.51.100.0/24", "2001:db8::/32"]})
    made = objects.service(placed(load_balancer=wanted), "berth", OWNER)
    assert (made["spec"]["type"], "clusterIP" in made["spec"]) == ("LoadBalancer", False)
    assert made["spec"]["loadBalancerSourceRanges"] == ["198.51.100.0/24", "2001:db8::/32"]
    assert made["metadata"]["annotations"] == {"cloud/internal": "true", **marks.annotations(spec())}
    with pytest.raises(ValidationError):
        LoadBalancer.model_validate({"source_ranges": ["198.51.100.7/24"]})


def test_a_template_says_where_and_how_its_pods_run() -> None:
    made = pod(
        placed(
            node_selector={"disk": "ssd"},
            tolerations=(Toleration(key="agents", value="yes"),),
            priority_class="agents",
            runtime_class="gvisor",
            pull_secrets=("registry",),
            topology_spread=Spread(max_skew=2, hard=True),
            seccomp_profile="RuntimeDefault",
        )
    )["spec"]
    assert made["nodeSelector"] == {"disk": "ssd"}
    assert made["tolerations"] == [{"key": "agents", "value": "yes", "operator": "Equal"}]
    assert (made["priorityClassName"], made["runtimeClassName"]) == ("agents", "gvisor")
    assert made["imagePullSecrets"] == [{"name": "registry"}]
    (spread,) = made["topologySpreadConstraints"]
    assert (spread["maxSkew"], spread["whenUnsatisfiable"]) == (2, "DoNotSchedule")
    assert made["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_an_agent_that_moves_may_go_anywhere_but_where_it_was() -> None:
    away = {"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}

    def terms(affinity: dict[str, Any]) -> Any:
        moved = placed(affinity=affinity).model_copy(update={"away_from": "node-1"})
        found = pod(moved)["spec"]["affinity"]
        assert found.get("podAffinity") == affinity.get("podAffinity")
        return found["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    assert terms({}) == [{"matchFields": [away]}]
    # Alternatives of a template's own are each held to it.
    zones = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in ("a", "b")]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": zones}}
    own = {"nodeAffinity": required, "podAffinity": {"x": "y"}}
    assert terms(own) == [{**zone, "matchFields": [away]} for zone in zones]
    assert own["nodeAffinity"] == {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": zones}}
    assert "affinity" not in pod()["spec"]


def test_other_limits_restart_no_container() -> None:
    policies = pod()["spec"]["containers"][0]["resizePolicy"]
    assert {each["resourceName"]: each["restartPolicy"] for each in policies} == {
        "cpu": "NotRequired",
        "memory": "NotRequired",
    }


def test_by_default_agents_spread_over_machines_where_that_is_possible() -> None:
    (spread,) = pod()["spec"]["topologySpreadConstraints"]
    assert (spread["maxSkew"], spread["topologyKey"]) == (1, "kubernetes.io/hostname")
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"


def test_resources_are_the_templates() -> None:
    usual = pod()["spec"]["containers"][0]["resources"]
    assert usual["requests"] == {"cpu": "500m", "memory": "512Mi"}
    assert usual["limits"] == {"cpu": "1000m", "memory": "1024Mi"}
    own = spec(template=Template(resources=Resources(cpu=0.0015, memory_mib=8, cpu_limit=2, memory_limit_mib=64)))
    assert pod(own)["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "2m", "memory": "8Mi"}


@pytest.mark.parametrize("ready_by", list(ReadyBy))
def test_an_agent_has_its_whole_deadline_before_the_cluster_ends_its_start(ready_by: ReadyBy) -> None:
    made = objects.pod(placed(ready_by=ready_by), "berth", OWNER, Timings(ready_deadline_seconds=90))
    startup = made["spec"]["containers"][0]["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > 90
    assert startup["httpGet"]["path"] == "/health"


def test_an_agent_that_saves_before_it_leaves_is_not_killed_for_being_unwell() -> None:
    made = objects.pod(spec(), "berth", OWNER, Timings(shutdown_seconds=120))
    liveness = made["spec"]["containers"][0]["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > 120
    assert made["spec"]["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize(
    "image",
    [
        "berth-agent",
        "localhost/berth-agent:dev",
        "registry.example:5000/team/agent:1.2.3",
        "agent@sha256:" + "0" * 64,
        "a/b_c/d--e:v@sha256:" + "f" * 64,
    ],
)
def test_what_a_registry_calls_an_image_is_taken(image: str) -> None:
    assert Template(image=image).image == image


@pytest.mark.parametrize(
    "image",
    [
        "",
        "agent; rm -rf /",
        "$(id)",
        "agent`id`",
        "agent\n",
        "../agent",
        "/agent",
        "agent:",
        "Agent",
        "a//b",
        "agent@sha256:zz",
        "-agent",
        "http://x/agent",
        "agent --privileged",
        "a" * 256,
        "ägent",
    ],
)
def test_anything_else_is_refused_as_an_image(image: str) -> None:
    with pytest.raises(ValidationError, match="image"):
        Template(image=image)


@pytest.mark.parametrize(
    "wanted",
    [
        {"privileged": True},
        {"seccomp_profile": "../../etc/passwd"},
        {"seccomp_profile": "Unconfined/../x"},
        {"runtime_class": "a b"},
        {"tolerations": [{"key": "a", "operater": "Exists"}]},
        {"profile": {"size": "lots"}},
        {"topology_spread": {"max_skew": 0}},
    ],
)
def test_what_a_template_may_not_say_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KubernetesTemplate.model_validate(wanted)
