"""The manifests as files and as kustomize builds them: hardened, with the least rights, without a secret."""

import ipaddress
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from core.domain.templates import Template
from core.domain.timings import Timings
from core.runtime.base import AgentSpec
from k8s import marks, objects
from k8s.quantities import quantity
from tests.capabilities import ROOT, missing
from tests.cluster.test_deployment import RIGHTS

MANIFESTS = ROOT / "k8s" / "manifests"
FILES = sorted(path for path in MANIFESTS.rglob("*.yaml") if path.name != "kustomization.yaml")
OVERLAYS = ("dev", "kind", "prod")
WORKLOADS = frozenset({"Deployment", "DaemonSet", "Job", "StatefulSet", "CronJob"})
# Writes one file as the node's root, which is its whole purpose.
ROOTS = frozenset({"berth-seccomp"})

Object = dict[str, Any]


@cache
def raw() -> list[Object]:
    """Every object as it stands in git."""
    return [found for path in FILES for found in yaml.safe_load_all(path.read_text()) if found]


@cache
def built(folder: str) -> list[Object]:
    """Every object as `kubectl apply -k` would send it."""
    done = subprocess.run(["kubectl", "kustomize", str(MANIFESTS / folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def everything() -> Iterator[Object]:
    """What is in git, and where kubectl is there, what comes of it."""
    yield from raw()
    if missing("kubectl") is None:
        for overlay in OVERLAYS:
            yield from built(f"overlays/{overlay}")


def of_kind(kind: str, among: list[Object] | None = None) -> list[Object]:
    return [found for found in (raw() if among is None else among) if found["kind"] == kind]


def named(kind: str, name: str, among: list[Object] | None = None) -> Object:
    (found,) = [each for each in of_kind(kind, among) if each["metadata"]["name"] == name]
    return found


def pods() -> Iterator[tuple[str, Object]]:
    for found in everything():
        if found["kind"] in WORKLOADS:
            yield found["metadata"]["name"], found["spec"]["template"]


def containers() -> Iterator[tuple[str, Object, Object]]:
    for name, template in pods():
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            yield name, template["spec"], container


def selects(selector: Object, labels: Object) -> bool:
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def agent() -> Object:
    """The pod of an agent as the runtime makes it, of a template without wishes."""
    token = SecretStr("token")
    spec = AgentSpec(agent_id="a", attempt=1, user_id="ann", project_id="shop", pool="default", template=Template(),
                     backend_url="http://berth-api.berth.svc:8000", token=token, model=None)  # fmt: skip
    owner = {"kind": "Secret", "metadata": {"name": "agent-a-1", "uid": "u"}}
    return objects.pod(spec, "berth", owner, Timings())


def test_every_container_is_closed_to_the_node() -> None:
    assert list(containers())
    for name, spec, container in containers():
        where = f"{name}/{container['name']}"
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, where
        assert own["readOnlyRootFilesystem"] is True, where
        assert own["capabilities"] == {"drop": ["ALL"]}, where
        pod = spec["securityContext"]
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), where
        assert spec["enableServiceLinks"] is False, where
        if name not in ROOTS:
            assert (pod["runAsNonRoot"], pod["runAsUser"] > 0) == (True, True), where
            assert not any("hostPath" in volume for volume in spec.get("volumes", [])), where


def test_every_container_has_its_share_and_its_limit() -> None:
    for name, _, container in containers():
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys(), name
        assert "memory" in resources["limits"], name


def test_only_who_asks_the_cluster_gets_a_token_for_it() -> None:
    bound = {subject["name"] for kind in ("RoleBinding", "ClusterRoleBinding") for found in of_kind(kind)
             for subject in found["subjects"]}  # fmt: skip
    for name, template in pods():
        account = template["spec"].get("serviceAccountName")
        if account is None:
            assert template["spec"]["automountServiceAccountToken"] is False, name
        else:
            assert account in bound, name


def test_node_paths_are_opened_in_their_own_namespace_alone() -> None:
    for found in everything():
        if found["kind"] == "Namespace":
            level = found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
            assert level == ("privileged" if found["metadata"]["name"] == "berth-node" else "restricted")
        elif found["kind"] in WORKLOADS:
            inside = found["metadata"]["namespace"] == "berth-node"
            assert inside == (found["metadata"]["name"] in ROOTS)


def test_no_right_is_a_wildcard_and_none_reaches_beyond_its_purpose() -> None:
    rules = [
        (found, rule) for found in everything() if found["kind"] in {"Role", "ClusterRole"} for rule in found["rules"]
    ]
    assert rules
    for found, rule in rules:
        words = [*rule.get("apiGroups", []), *rule.get("resources", []), *rule["verbs"]]
        name = found["metadata"]["name"]
        assert not any("*" in word for word in words), name
        assert "nonResourceURLs" not in rule, name
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"]), name
        assert not {"pods/exec", "pods/attach", "pods/ephemeralcontainers"} & set(rule["resources"]), name
        if found["kind"] == "ClusterRole":
            assert set(rule["verbs"]) <= {"get", "list", "watch"}, name
            assert "secrets" not in rule["resources"], name


def test_api_and_watcher_can_neither_make_nor_end_an_agent() -> None:
    for name in ("berth-api", "berth-watcher"):
        for rule in named("Role", name)["rules"]:
            if {"pods", "pods/resize", "secrets", "services"} & set(rule["resources"]):
                assert set(rule["verbs"]) <= {"get", "list", "watch"}, name


@pytest.mark.parametrize("account", RIGHTS)
def test_each_account_has_the_rights_that_its_part_uses_and_no_others(account: str) -> None:
    given: dict[str, set[str]] = {}
    for kind in ("Role", "ClusterRole"):
        for found in of_kind(kind):
            for rule in found["rules"] if found["metadata"]["name"] == account else ():
                for group, resource in product(rule["apiGroups"], rule["resources"]):
                    given.setdefault(f"{group}/{resource}".lstrip("/"), set()).update(rule["verbs"])
    assert given == RIGHTS[account]


def test_git_holds_no_secret() -> None:
    assert not of_kind("Secret")
    for path in MANIFESTS.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "secretGenerator" not in text, path
            assert not re.search(r"postgres(ql)?://\S+:\S+@", text), path
    for name, _, container in containers():
        for entry in container.get("env", []):
            if re.search(r"SECRET|PASSWORD|KEY|DATABASE__URL", entry["name"]):
                assert "secretKeyRef" in entry["valueFrom"], name


def test_policies_hold_agents_by_the_labels_that_agents_have() -> None:
    policies = [found for found in of_kind("NetworkPolicy") if found["metadata"]["namespace"] == "berth-agents"]
    labels = agent()["metadata"]["labels"]
    for policy in policies:
        assert selects(policy["spec"]["podSelector"], labels), policy["metadata"]["name"]
    nothing = named_in(policies, "nothing")
    assert nothing["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_only_the_api_comes_in_to_an_agent() -> None:
    policies = [found for found in of_kind("NetworkPolicy") if found["metadata"]["namespace"] == "berth-agents"]
    (let_in,) = [found for found in policies if found["spec"].get("ingress")]
    (rule,) = let_in["spec"]["ingress"]
    (peer,) = rule["from"]
    assert {port["port"] for port in rule["ports"]} == {objects.API_PORT, objects.VNC_PORT}
    assert_is_api(peer)


def test_agents_reach_names_and_the_api_inside_and_nothing_else() -> None:
    inside = []
    for policy in of_kind("NetworkPolicy"):
        if policy["metadata"]["namespace"] == "berth-agents":
            for rule in policy["spec"].get("egress", []):
                inside += [(peer, rule["ports"]) for peer in rule["to"] if "ipBlock" not in peer]
    assert len(inside) == 2
    for peer, ports in inside:
        if {port["port"] for port in ports} == {53}:
            assert peer["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
        else:
            assert {port["port"] for port in ports} == {8000}
            assert_is_api(peer)


@pytest.mark.parametrize(
    "address",
    ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.7.7", "100.64.0.1", "169.254.169.254", "127.0.0.1",
     "0.0.0.1", "224.0.0.1", "fd00::1", "fc00::1", "fe80::1", "::1", "fd00:ec2::254", "::ffff:10.0.0.1",
     "64:ff9b::a00:1", "2002:a00:1::", "ff02::1"],
)  # fmt: skip
def test_agents_reach_no_address_that_is_not_public(address: str) -> None:
    assert not is_let_out(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "2001:4860::8888"])
def test_agents_reach_the_public_internet(address: str) -> None:
    assert is_let_out(address)


def test_agents_send_no_mail() -> None:
    for rule in named("NetworkPolicy", "to-internet")["spec"]["egress"]:
        for port in rule["ports"]:
            assert not port["port"] <= 25 <= port.get("endPort", port["port"])


def test_an_agent_without_wishes_is_within_what_its_namespace_allows() -> None:
    (most,) = [each["max"] for each in named("LimitRange", "agents")["spec"]["limits"] if each["type"] == "Container"]
    asked = agent()["spec"]["containers"][0]["resources"]["limits"]
    assert all(quantity(asked[what]) <= quantity(most[what]) for what in ("cpu", "memory"))


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_applied_fits_together(overlay: str) -> None:
    objects = built(f"overlays/{overlay}")
    keys = [(found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in objects]
    assert len(keys) == len(set(keys))
    there = {(kind, name) for kind, _, name in keys}
    for found in objects:
        if found["kind"] in WORKLOADS:
            spec = found["spec"]["template"]["spec"]
            assert ("ServiceAccount", spec.get("serviceAccountName", "berth-api")) in there
            assert ("PriorityClass", spec.get("priorityClassName", "berth-control")) in there
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                for source in container.get("envFrom", []):
                    if "configMapRef" in source:
                        assert ("ConfigMap", source["configMapRef"]["name"]) in there
                    else:
                        assert source["secretRef"] == {"name": "berth-notices", "optional": True}
        elif found["kind"] in {"Service", "PodDisruptionBudget"}:
            selector = found["spec"].get("selector") or found["spec"]["podSelector"]
            selector = selector if "matchLabels" in selector or not selector else {"matchLabels": selector}
            assert any(
                selects(selector, each["spec"]["template"]["metadata"]["labels"])
                for each in objects
                if each["kind"] in WORKLOADS
            ), found["metadata"]["name"]


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_agents_are_made_of_the_image_that_nodes_hold_ready(overlay: str) -> None:
    objects = built(f"overlays/{overlay}")
    (settings,) = [found["data"] for found in of_kind("ConfigMap", objects)
                   if found["metadata"]["name"].startswith("berth-settings-")]  # fmt: skip
    (holder,) = named("DaemonSet", "berth-prepull", objects)["spec"]["template"]["spec"]["containers"]
    assert settings["BERTH_TEMPLATES__DEFAULT__IMAGE"] == holder["image"]


@pytest.mark.needs("kubectl")
def test_production_runs_images_by_digest_alone() -> None:
    for found in built("overlays/prod"):
        if found["kind"] in WORKLOADS:
            spec = found["spec"]["template"]["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), container["image"]


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_given_to_parts_are_settings_that_parts_know(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.cli import config

    for found in of_kind("ConfigMap", built(f"overlays/{overlay}")):
        if found["metadata"]["name"].startswith("berth-settings-"):
            for name, value in found["data"].items():
                monkeypatch.setenv(name, value)
    assert config.unknown() == []
    assert config.load().pool.runtime == "kubernetes"


@pytest.mark.needs("kubectl")
def test_users_of_a_production_cluster_keep_their_cookies(monkeypatch: pytest.MonkeyPatch) -> None:
    from api.cli import config

    (settings,) = [found["data"] for found in of_kind("ConfigMap", built("overlays/prod"))
                   if found["metadata"]["name"].startswith("berth-settings-")]  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert config.load().templates["default"].kubernetes.profile is not None


def test_a_changed_setting_leaves_the_migrations_job_as_it_is() -> None:
    """Its pod cannot be changed, and the name of the settings' map ends in a hash of them."""
    assert "berth-settings" not in yaml.safe_dump(named("Job", "berth-migrate"))


def test_an_outage_behind_the_api_takes_no_replica_out_of_its_service() -> None:
    (api,) = named("Deployment", "berth-api")["spec"]["template"]["spec"]["containers"]
    asked = {name: api[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert asked == {"startupProbe": "/ready", "readinessProbe": "/health", "livenessProbe": "/health"}


def with_component(name: str, folder: Path) -> list[Object]:
    """The overlay `dev` with one component beside it, made in an empty `folder`."""
    parts = {what: os.path.relpath(MANIFESTS / where, folder.resolve())
             for what, where in (("resources", "overlays/dev"), ("components", f"components/{name}"))}  # fmt: skip
    told = {"kind": "Kustomization", **{what: [where] for what, where in parts.items()}}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(told))
    return built(str(folder))


@pytest.mark.needs("kubectl")
def test_placeholders_make_way_for_agents_where_nothing_but_their_component_is_added(tmp_path: Path) -> None:
    objects = with_component("headroom", tmp_path)
    (settings,) = [found["data"] for found in of_kind("ConfigMap", objects)
                   if found["metadata"]["name"].startswith("berth-settings-")]  # fmt: skip
    agents = settings["BERTH_TEMPLATES__DEFAULT__KUBERNETES__PRIORITY_CLASS"]
    placeholder = named("Deployment", "berth-headroom", objects)["spec"]["template"]
    assert placeholder["metadata"]["labels"][marks.PLACEHOLDER] == agents
    first, last = (named("PriorityClass", name, objects) for name in (agents, placeholder["spec"]["priorityClassName"]))
    assert first.get("preemptionPolicy", "PreemptLowerPriority") == "PreemptLowerPriority"
    assert first["value"] > last["value"]


@pytest.mark.needs("kubectl")
def test_every_part_reads_the_file_of_templates_that_the_guide_adds(tmp_path: Path) -> None:
    _, guide = (ROOT / "docs/kubernetes.md").read_text().split("**Templates and pools**", 1)
    told = yaml.safe_load(textwrap.dedent(guide.split("\n\n")[1]))
    told["resources"] = [os.path.relpath(MANIFESTS / "overlays/prod", tmp_path.resolve())]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(told))
    (tmp_path / "berth.yaml").write_text("templates: {large: {resources: {memory_mib: 1024}}}\n")
    parts = [found["spec"]["template"]["spec"] for found in of_kind("Deployment", built(str(tmp_path)))]
    assert len(parts) == 3
    for spec in parts:
        (volume,) = [each["name"] for each in spec["volumes"] if "configMap" in each]
        for container in [*spec["initContainers"], *spec["containers"]]:
            folders = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume}
            assert folders == {"/etc/berth"}
        (names,) = [{each["name"]: each.get("value") for each in container["env"]} for container in spec["containers"]]
        assert names["BERTH_CONFIG"] == "/etc/berth/berth.yaml"


def named_in(among: list[Object], name: str) -> Object:
    (found,) = [each for each in among if each["metadata"]["name"] == name]
    return found


def assert_is_api(peer: Object) -> None:
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "berth"}
    labels = named("Deployment", "berth-api")["spec"]["template"]["metadata"]["labels"]
    others = [found for found in of_kind("Deployment") if found["metadata"]["name"] != "berth-api"]
    assert selects(peer["podSelector"], labels)
    assert not any(selects(peer["podSelector"], each["spec"]["template"]["metadata"]["labels"]) for each in others)


def is_let_out(address: str) -> bool:
    asked = ipaddress.ip_address(address)
    for rule in named("NetworkPolicy", "to-internet")["spec"]["egress"]:
        for peer in rule["to"]:
            block = peer["ipBlock"]
            inside = [ipaddress.ip_network(cidr) for cidr in (block["cidr"], *block["except"])]
            if asked in inside[0] and not any(asked in closed for closed in inside[1:]):
                return True
    return False


def test_every_file_is_part_of_something() -> None:
    listed = set()
    for path in MANIFESTS.rglob("kustomization.yaml"):
        told = yaml.safe_load(path.read_text())
        listed |= {(path.parent / name).resolve() for name in told.get("resources", [])}
    assert {Path(path).resolve() for path in FILES} <= listed


@pytest.mark.needs("kubectl")
def test_a_release_has_workers_and_a_migration_of_its_own_name() -> None:
    prod = built("overlays/prod")
    (settings,) = [found for found in of_kind("ConfigMap", prod) if "BERTH_WORKER__BUILD_ID" in found["data"]]
    release = settings["data"]["BERTH_WORKER__BUILD_ID"]
    workers = named("Deployment", f"berth-worker-{release}", prod)
    # Else two releases' Deployments would take each other's pods for their own.
    assert workers["spec"]["selector"]["matchLabels"]["berth.dev/release"] == release
    assert workers["spec"]["template"]["metadata"]["labels"]["berth.dev/release"] == release
    named("Job", f"berth-migrate-{release}", prod)
