"""All of Berth in a cluster: applied from the manifests alone, used through its API, with the rights it uses."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster.cluster import Cluster
from k8s.images.store import AGENT, CONTROL
from k8s.images.workshop import Built
from tests.capabilities import ROOT
from tests.fixtures.cluster import PATIENCE, Kubectl
from tests.fixtures.images import load

pytestmark = [pytest.mark.needs("cluster", "images", "kubectl"), pytest.mark.timeout(900)]

OVERLAYS = ROOT / "k8s" / "manifests" / "overlays"
STRANGER = """
import sys, urllib.error, urllib.request
for url, sent in zip(sys.argv[1:], (b'{"command": "state"}', None)):
    for headers in ({}, {"X-Agent-Token": "guessed"}, {"Authorization": "Bearer guessed"}):
        try:
            print(urllib.request.urlopen(urllib.request.Request(url, sent, headers), timeout=10).status)
        except urllib.error.HTTPError as error:
            print(error.code)
"""
READY_SECONDS = 300
LIFE_SECONDS = 180
_ASK_EVERY = 0.5
# What each account may do beyond what everybody may, as group/resource: verbs.
RIGHTS = {
    "berth-api": {
        "pods": {"get", "list", "watch"},
        "pods/log": {"get"},
        "secrets": {"get", "list"},
        "persistentvolumeclaims": {"delete"},
    },
    "berth-worker": {
        "pods": {"create", "get", "list", "watch", "delete"},
        "pods/resize": {"patch"},
        "secrets": {"create", "get", "list", "delete"},
        "services": {"create", "get", "delete"},
        "persistentvolumeclaims": {"create", "get"},
        "events": {"list"},
        "resourcequotas": {"list"},
        "nodes": {"get", "list"},
        "persistentvolumes": {"get"},
        "metrics.k8s.io/nodes": {"list"},
    },
    "berth-watcher": {
        "pods": {"list", "watch"},
        "secrets": {"list"},
        "events": {"list"},
        "nodes": {"list", "watch"},
        "coordination.k8s.io/leases": {"create", "get", "update"},
    },
}


@pytest.fixture(scope="module")
def berth(cluster: Cluster, images: Mapping[str, Built]) -> Iterator[Kubectl]:
    """The overlay `dev`, applied once and Ready; everything of it is gone afterwards."""
    load([images[AGENT], images[CONTROL]], cluster.containerd_sockets)
    kubectl = Kubectl(cluster, "berth")
    applied = manifests(cluster, "apply", "dev")
    assert applied.returncode == 0, applied.stderr
    try:
        deadline = time.monotonic() + READY_SECONDS
        while waiting := not_ready(kubectl):
            assert time.monotonic() < deadline, (waiting, kubectl("get", "pods", "-o", "wide"))
            time.sleep(_ASK_EVERY)
        yield kubectl
    finally:
        manifests(cluster, "delete", "dev", "--ignore-not-found", "--wait=false")
        for namespace in ("berth", "berth-agents"):
            kubectl.until("", "get", "namespace", namespace, "--ignore-not-found", seconds=READY_SECONDS)


def manifests(cluster: Cluster, verb: str, overlay: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`kubectl apply -k`, or another verb; the objects say themselves which namespaces they are in."""
    argv = [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}", verb, "-k", str(OVERLAYS / overlay), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE)


def not_ready(kubectl: Kubectl) -> list[str]:
    """What of the control plane is not yet as wished."""
    waiting = []
    for found in json.loads(kubectl("get", "deployments,daemonsets,jobs", "-o", "json"))["items"]:
        spec, status = found["spec"], found.get("status") or {}
        match found["kind"]:
            case "Deployment":
                wanted = 1 if found["metadata"]["name"] in {"postgres", "temporal"} else 2
                ready = spec["replicas"] >= wanted and status.get("availableReplicas") == spec["replicas"]
            case "DaemonSet":
                ready = 0 < status.get("desiredNumberScheduled", 0) == status.get("numberReady", 0)
            case _:
                ready = bool(status.get("succeeded"))
        if not ready:
            waiting.append(f"{found['kind']} {found['metadata']['name']}")
    return waiting


class Person:
    """Somebody who uses Berth from inside the cluster, by its Service's name and their own token."""

    def __init__(self, kubectl: Kubectl, user: str, project: str) -> None:
        self._kubectl = kubectl
        self._token = self._exec("berth", "token", user, f"--project={project}").strip()

    def berth(self, *words: str) -> Any:
        address = "BERTH_API_URL=http://berth-api.berth.svc:8000"
        return json.loads(self._exec("env", address, f"BERTH_TOKEN={self._token}", "berth", *words, "--json"))

    def _exec(self, *words: str) -> str:
        done = self._kubectl.ask("exec", "deploy/berth-api", "-c", "api", "--", *words)
        assert done.returncode == 0, (words[2:], done.stderr)
        return done.stdout


@pytest.mark.parametrize("overlay", ["dev", "kind", "prod"])
def test_the_api_server_takes_every_object_as_it_is(cluster: Cluster, berth: Kubectl, overlay: str) -> None:
    kubectl = Kubectl(cluster)
    # An object in a namespace that is only to come is refused.
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "berth-node"}})
    try:
        done = manifests(cluster, "apply", overlay, "--dry-run=server", "--warnings-as-errors")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("(server dry run)") == len(done.stdout.splitlines()) > 30
    finally:
        kubectl("delete", "namespace", "berth-node")


def test_an_agent_is_started_used_and_stopped_by_its_owner_inside_and_reached_by_no_strangers_pod(
    cluster: Cluster, berth: Kubectl, images: Mapping[str, Built]
) -> None:
    agents = Kubectl(cluster, "berth-agents")
    ann = Person(berth, "ann", "shop")
    started = ann.berth("agents", "start", "shop")
    agent_id = started["agent"]["agentId"]
    life(ann, "running")
    (pod,) = json.loads(agents("get", "pods", "-l", f"app=agent,agentId={agent_id}", "-o", "json"))["items"]
    assert pod["spec"]["priorityClassName"] == "berth-agents"
    done = ann.berth("agents", "exec", "shop", "state")
    assert done["status"] == "executed"
    # No policy is enforced in this network, so the pod gets as far as the agent's doors.
    assert set(asked_by_a_stranger(cluster, images[CONTROL].name, pod)) == {"401"}
    ann.berth("agents", "stop", "shop")
    life(ann, "terminated")
    for kind in ("pods", "services", "secrets"):
        agents.until("", "get", kind, "-l", "app=agent", "-o", "name")


def asked_by_a_stranger(cluster: Cluster, image: str, agent: dict[str, Any]) -> list[str]:
    """What a pod that is nobody's of ours is answered at each door of an agent, with no token and with guessed ones."""
    kubectl, service = Kubectl(cluster), f"http://{agent['metadata']['name']}.berth-agents.svc"
    doors = [f"{service}:8080/execute", f"{service}:6080/websockify"]
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", STRANGER, *doors],
    }
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": spec})
    try:
        kubectl("wait", "pod/stranger", "--for=jsonpath={.status.phase}=Succeeded", f"--timeout={PATIENCE}s")
        answers = kubectl("logs", "stranger").split()
        assert len(answers) == 3 * len(doors)
        return answers
    finally:
        kubectl("delete", "pod", "stranger", "--wait=false")


def life(person: Person, wanted: str) -> None:
    deadline = time.monotonic() + LIFE_SECONDS
    while (found := person.berth("agents", "list", "--all")[0])["state"] != wanted:
        assert found["state"] != "failed", found
        assert time.monotonic() < deadline, found
        time.sleep(_ASK_EVERY)


@pytest.mark.parametrize("account", sorted(RIGHTS))
def test_an_account_may_do_what_it_needs_and_nothing_else(cluster: Cluster, berth: Kubectl, account: str) -> None:
    assert rights(Kubectl(cluster), account) == RIGHTS[account]


def test_no_part_asks_for_what_it_may_not(cluster: Cluster, berth: Kubectl) -> None:
    # An earlier deployment, while it was taken away, may have lost its rights before its pods.
    since = berth("get", "namespace", "berth", "-o", "jsonpath={.metadata.creationTimestamp}")
    ours = [call for call in calls(cluster.audit_log) if call["requestReceivedTimestamp"] > since]
    assert ours
    refused = [call for call in ours if call["responseStatus"].get("code") == 403]
    assert [(call["user"]["username"], call["verb"], call["requestURI"]) for call in refused] == []


def rights(kubectl: Kubectl, account: str) -> dict[str, set[str]]:
    """What it may do in the agents' namespace, cluster-wide rights among it, beyond what every account may."""

    def told(user: str) -> dict[str, set[str]]:
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
                  "spec": {"namespace": "berth-agents"}}  # fmt: skip
        answer = kubectl("create", "-f", "-", "-o", "json", "--validate=false", f"--as={user}",
                         "--as-group=system:serviceaccounts", "--as-group=system:authenticated",
                         stdin=json.dumps(review))  # fmt: skip
        found: dict[str, set[str]] = {}
        for rule in json.loads(answer)["status"]["resourceRules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found.setdefault(f"{group}/{resource}".lstrip("/"), set()).update(rule["verbs"])
        return found

    everybody = told("system:serviceaccount:berth:nobody")
    own = told(f"system:serviceaccount:berth:{account}")
    return {what: verbs for what, verbs in own.items() if verbs != everybody.get(what)}


def calls(audit_log: Path) -> Iterator[dict[str, Any]]:
    """Requests that our accounts made, once each."""
    with audit_log.open() as log:
        for line in log:
            call = json.loads(line)
            name = call["user"].get("username", "")
            if name.startswith("system:serviceaccount:berth:") and "impersonatedUser" not in call:
                yield call
