"""What a cluster holds from its first second: names (CoreDNS, as any cluster has it) and a default storage class."""

from k8s.cluster import volumes
from k8s.cluster.client import Client
from k8s.cluster.network import Network

DNS_IMAGE = "localhost/berth/coredns:1"
_RBAC = "rbac.authorization.k8s.io"
_LABELS = {"k8s-app": "kube-dns"}
_COREFILE = """\
.:53 {
  errors
  health
  ready
  kubernetes cluster.local in-addr.arpa {
    ttl 5
  }
  forward . /etc/resolv.conf
  cache 5
}
"""


def apply(client: Client, network: Network) -> None:
    """Make them, or bring them up to date."""
    system = "/api/v1/namespaces/kube-system"
    roles = f"/apis/{_RBAC}/v1"
    name = "system:coredns"
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role: dict[str, object] = {"rules": rules}
    binding: dict[str, object] = {
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    }
    client.apply(f"{roles}/clusterroles/{name}", _object(f"{_RBAC}/v1", "ClusterRole", name, role))
    client.apply(f"{roles}/clusterrolebindings/{name}", _object(f"{_RBAC}/v1", "ClusterRoleBinding", name, binding))
    client.apply(f"{system}/serviceaccounts/coredns", _object("v1", "ServiceAccount", "coredns", {}))
    client.apply(
        f"{system}/configmaps/coredns", _object("v1", "ConfigMap", "coredns", {"data": {"Corefile": _COREFILE}})
    )
    client.apply("/apis/apps/v1/namespaces/kube-system/daemonsets/coredns", _servers())
    client.apply(f"{system}/services/kube-dns", _service(network))
    storage = _object("storage.k8s.io/v1", "StorageClass", volumes.STORAGE_CLASS, {"provisioner": volumes.PROVISIONER})
    storage["metadata"] = {
        "name": volumes.STORAGE_CLASS,
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    }
    client.apply(f"/apis/storage.k8s.io/v1/storageclasses/{volumes.STORAGE_CLASS}", storage)


def _servers() -> dict[str, object]:
    # One a node, so that names go on being known whichever node a test takes away.
    container = {
        "name": "coredns",
        "image": DNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": {
            "runAsUser": 65534,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    spec = {
        "selector": {"matchLabels": _LABELS},
        "template": {"metadata": {"labels": _LABELS}, "spec": pod},
    }
    return _object("apps/v1", "DaemonSet", "coredns", {"spec": spec})


def _service(network: Network) -> dict[str, object]:
    ports = [
        {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
    ]
    spec = {"clusterIP": network.dns_service, "selector": _LABELS, "ports": ports}
    return _object("v1", "Service", "kube-dns", {"spec": spec})


def _object(version: str, kind: str, name: str, rest: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **rest}
