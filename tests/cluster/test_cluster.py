"""A cluster of two nodes serves as any Kubernetes does, and breaks where a test breaks it."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from k8s.cluster.cluster import Cluster
from k8s.cluster.node import PAUSE_IMAGE
from tests.fixtures.cluster import Kubectl

pytestmark = pytest.mark.needs("cluster")

READY = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"


@pytest.fixture
def kubectl(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own."""
    name = request.node.name.replace("_", "-")[:60].strip("-")
    Kubectl(cluster)("create", "namespace", name)
    yield Kubectl(cluster, name)
    Kubectl(cluster)("delete", "namespace", name, "--wait=false")


@pytest.fixture
def own_server(cluster: Cluster) -> Iterator[str]:
    """The address of an HTTP server of this machine, as pods reach it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from this machine")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((cluster.host_address, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{cluster.host_address}:{server.server_port}/"
        server.shutdown()


def tiny_pod(name: str, *words: str, node: str | None = None, **spec: object) -> dict[str, object]:
    """A pod of the tiny image, ready when it answers if it serves."""
    container: dict[str, object] = {
        "name": "main",
        "image": PAUSE_IMAGE,
        "imagePullPolicy": "Never",
        "args": list(words),
    }
    if "serve" in words:
        container["readinessProbe"] = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1}
    placed = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    body = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, **placed, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": body}


def test_both_nodes_are_ready(cluster: Cluster) -> None:
    kubectl = Kubectl(cluster)
    for node in ("node-1", "node-2"):
        assert kubectl("get", "node", node, "-o", READY) == "True"


def test_the_log_of_a_pod_can_be_read(kubectl: Kubectl) -> None:
    kubectl.apply(tiny_pod("talker", "exit", "0", "hello", "there"))
    kubectl.until("Succeeded", "get", "pod", "talker", "-o", "jsonpath={.status.phase}")
    assert kubectl("logs", "talker") == "hello there\n"


def test_a_command_can_be_run_in_a_pod(kubectl: Kubectl) -> None:
    kubectl.apply(tiny_pod("server", "serve"))
    kubectl("wait", "pod/server", "--for=condition=Ready", "--timeout=60s")
    assert kubectl("exec", "server", "--", "/tiny", "fetch", "http://127.0.0.1:8080/") == "server\n"


def test_a_service_is_reached_by_its_name_from_the_other_node(kubectl: Kubectl) -> None:
    spec = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"}, "spec": spec}
    kubectl.apply(service, tiny_pod("server", "serve", node="node-1"))
    kubectl("wait", "pod/server", "--for=condition=Ready", "--timeout=60s")
    kubectl.apply(tiny_pod("caller", "serve", node="node-2"))
    kubectl("wait", "pod/caller", "--for=condition=Ready", "--timeout=60s")
    kubectl.until("server", "exec", "caller", "--", "/tiny", "fetch", "http://shop/")


def test_pods_and_this_machine_reach_each_other(cluster: Cluster, kubectl: Kubectl, own_server: str) -> None:
    kubectl.apply(tiny_pod("caller", "serve"))
    kubectl("wait", "pod/caller", "--for=condition=Ready", "--timeout=60s")
    address = kubectl("get", "pod", "caller", "-o", "jsonpath={.status.podIP}")
    with urllib.request.urlopen(f"http://{address}:8080/fetch?url={own_server}", timeout=20) as answer:
        assert answer.read() == b"from this machine"


def test_a_service_account_may_what_it_was_given_and_no_more(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl("create", "role", "reader", "--verb=list", "--resource=pods")
    kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={kubectl.namespace}:default")
    as_account = f"--as=system:serviceaccount:{kubectl.namespace}:default"
    kubectl.until("yes", "auth", "can-i", "list", "pods", as_account)
    assert kubectl.ask("auth", "can-i", "list", "secrets", as_account).stdout.strip() == "no"


def test_a_pod_holds_a_token_that_the_api_server_knows(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(tiny_pod("server", "serve"))
    kubectl("wait", "pod/server", "--for=condition=Ready", "--timeout=60s")
    token = kubectl("exec", "server", "--", "/tiny", "read", "/var/run/secrets/kubernetes.io/serviceaccount/token")
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token.strip()}}
    said = json.loads(kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review)))
    assert said["status"]["user"]["username"] == f"system:serviceaccount:{kubectl.namespace}:default"


def test_the_restricted_level_refuses_a_privileged_pod(kubectl: Kubectl) -> None:
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted")
    pod = json.dumps(tiny_pod("bold", "serve", hostNetwork=True))
    assert "violates PodSecurity" in kubectl.ask("apply", "-f", "-", stdin=pod).stderr


def test_a_claim_of_the_default_class_gets_a_volume_that_both_nodes_see(kubectl: Kubectl) -> None:
    spec = {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "profile"}, "spec": spec}
    kubectl.apply(claim)
    kubectl.until("Bound", "get", "pvc", "profile", "-o", "jsonpath={.status.phase}")
    volumes = [{"name": "profile", "persistentVolumeClaim": {"claimName": "profile"}}]
    for node in ("node-1", "node-2"):
        pod = tiny_pod(f"on-{node}", "exit", "0", node=node, volumes=volumes)
        kubectl.apply(pod)
        kubectl.until("Succeeded", "get", "pod", f"on-{node}", "-o", "jsonpath={.status.phase}")
    volume = kubectl("get", "pvc", "profile", "-o", "jsonpath={.spec.volumeName}")
    kubectl("delete", "pod", "on-node-1", "on-node-2")
    kubectl("delete", "pvc", "profile")
    kubectl.until("", "get", "pv", volume, "--ignore-not-found", "-o", "name")


def test_a_node_whose_kubelet_is_killed_is_not_ready_until_it_is_started_again(cluster: Cluster) -> None:
    kubectl = Kubectl(cluster)
    cluster.stop_kubelet("node-2")
    try:
        kubectl.until("Unknown", "get", "node", "node-2", "-o", READY)
        assert kubectl("get", "node", "node-1", "-o", READY) == "True"
    finally:
        cluster.start_kubelet("node-2")
    kubectl.until("True", "get", "node", "node-2", "-o", READY)


def test_a_node_that_lost_its_power_runs_pods_again_after_it_has_booted(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(tiny_pod("before", "serve", node="node-2"))
    kubectl("wait", "pod/before", "--for=condition=Ready", "--timeout=60s")
    cluster.stop_node("node-2")
    cluster.start_node("node-2")
    kubectl.until("Failed", "get", "pod", "before", "-o", "jsonpath={.status.phase}")
    kubectl.apply(tiny_pod("after", "serve", node="node-2"))
    kubectl("wait", "pod/after", "--for=condition=Ready", "--timeout=60s")


def test_pods_live_through_a_restart_of_the_api_server(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(tiny_pod("server", "serve"))
    kubectl("wait", "pod/server", "--for=condition=Ready", "--timeout=60s")
    cluster.stop_api_server()
    try:
        assert kubectl.ask("get", "pods", "--request-timeout=2s").returncode != 0
    finally:
        cluster.start_api_server()
    assert kubectl("get", "pod", "server", "-o", READY) == "True"
    assert kubectl("get", "pod", "server", "-o", "jsonpath={.status.containerStatuses[0].restartCount}") == "0"


def test_the_audit_log_tells_who_called_what(cluster: Cluster) -> None:
    Kubectl(cluster)("get", "nodes")
    calls = [json.loads(line) for line in cluster.audit_log.read_text().splitlines()]
    assert ("berth-admin", "list", "nodes") in {
        (call["user"]["username"], call["verb"], call.get("objectRef", {}).get("resource")) for call in calls
    }
