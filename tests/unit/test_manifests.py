"""The manifests: hardened, with the least rights, without a secret, and closed to whom it does not concern."""

import ipaddress
import re
from itertools import product
from pathlib import Path

import pytest
import yaml

from k8s import objects
from k8s.quantities import quantity
from tests.cluster.test_deployment import RIGHTS
from tests.fixtures.manifests import (
    FILES,
    MANIFESTS,
    ROOTS,
    WORKLOADS,
    Object,
    agent,
    containers,
    everything,
    named,
    of_kind,
    pods,
    selects,
)


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
