"""The agent's image as a hardened pod of a real cluster, under the restricted Pod Security level."""

import asyncio
import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from core.dev.demo.shop import Shop
from k8s.cluster.cluster import Cluster
from k8s.images.store import AGENT
from k8s.images.workshop import Built
from tests.agent.backend import Backend, serve
from tests.fixtures.cluster import Kubectl
from tests.fixtures.images import load

pytestmark = [pytest.mark.needs("cluster", "images"), pytest.mark.timeout(600)]

TOKEN = "token-of-this-agent"
MODEL_KEY = "key-of-the-model"
PNG = b"\x89PNG\r\n"
POD_PIDS = 512  # podPidsLimit, which the kubelet of every node is to have


@dataclass(frozen=True)
class Pod:
    """A started agent."""

    name: str
    uid: str
    api: str
    backend: Backend

    async def execute(self, command: str, **parameters: Any) -> httpx2.Response:
        body = {"command": command, "parameters": parameters, "timeoutSeconds": 30}
        async with httpx2.AsyncClient(timeout=60, trust_env=False) as http:
            return await http.post(f"{self.api}/execute", json=body, headers={"X-Agent-Token": TOKEN})

    def processes(self) -> dict[int, str]:
        """Pid and command line of all that runs in it, as its node's machine sees them."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self.uid in (entry / "cgroup").read_text().replace("_", "-"):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, images: Mapping[str, Built]) -> Iterator[Kubectl]:
    """A fresh namespace that refuses every pod which is not restricted."""
    load([images[AGENT]], cluster.containerd_sockets)
    name = f"agent-pod-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl = Kubectl(cluster)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield Kubectl(cluster, name)
    kubectl("delete", "namespace", name, "--wait=false")


@contextlib.asynccontextmanager
async def agent(cluster: Cluster, kubectl: Kubectl, allowed: str = "127.0.0.9") -> AsyncIterator[Pod]:
    name = f"agent-{uuid.uuid4().hex[:8]}"
    async with serve(TOKEN, cluster.host_address) as backend:
        await asyncio.to_thread(kubectl.apply, manifest(name, backend.url, allowed))
        await backend.until(lambda: any(each["type"] == "ready" for each in backend.kept), 90)
        await asyncio.to_thread(kubectl.until, "True", *_ask(name, '{.status.conditions[?(@.type=="Ready")].status}'))
        seen = json.loads(await asyncio.to_thread(kubectl, "get", "pod", name, "-o", "json"))
        address = f"http://{seen['status']['podIP']}:8080"
        try:
            yield Pod(name, seen["metadata"]["uid"], address, backend)
        finally:
            await asyncio.to_thread(kubectl, "delete", "pod", name, "--wait=false", "--grace-period=1")


def manifest(name: str, backend: str, allowed: str) -> dict[str, Any]:
    variables = {
        "AGENT_ID": name,
        "USER_ID": "ada",
        "PROJECT_ID": "tea",
        "MAIN_BACKEND_URL": backend,
        "AGENT_TOKEN": TOKEN,
        "LLM_BASE_URL": backend,
        "LLM_MODEL": "none",
        "LLM_API_KEY": MODEL_KEY,
        "AGENT_BROWSER": json.dumps({"allowed_hosts": [allowed]}),
    }
    probe = {"httpGet": {"path": "/health", "port": 8080}, "timeoutSeconds": 5}
    volumes = {"tmp": "/tmp", "profile": "/profile", "shm": "/dev/shm"}
    container = {
        "name": "agent",
        "image": AGENT,
        "imagePullPolicy": "Never",
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 90},
        "readinessProbe": {**probe, "periodSeconds": 2},
        "volumeMounts": [{"name": each, "mountPath": path} for each, path in volumes.items()],
    }
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "Localhost", "localhostProfile": "agent.json"},
            },
            "containers": [container],
            "volumes": [*({"name": each, "emptyDir": {}} for each in ("tmp", "profile")), shm],
        },
    }


def _ask(name: str, path: str) -> list[str]:
    return ["get", "pod", name, "-o", f"jsonpath={path}"]


async def test_agent_in_a_restricted_pod_opens_a_page_and_takes_its_picture(
    cluster: Cluster, namespace: Kubectl
) -> None:
    with Shop(host=cluster.host_address) as shop:
        async with agent(cluster, namespace, f"{shop.host}:{shop.port}") as pod:
            opened = await pod.execute("navigate", url=shop.url)
            assert opened.status_code == 200, opened.text
            pictured = await pod.execute("screenshot")
            assert pictured.status_code == 200, pictured.text
            ((kind, picture),) = pod.backend.artefacts.values()
            assert (kind, picture[:6]) == ("image/png", PNG)
            refused = await pod.execute("navigate", url=f"https://{cluster.host_address}:{shop.port + 1}/")
            assert (refused.status_code, refused.json()["code"]) == (403, "address_refused")


async def test_browsers_sandbox_is_on_in_a_pod_and_its_processes_fit(cluster: Cluster, namespace: Kubectl) -> None:
    async with agent(cluster, namespace) as pod:
        running = pod.processes()
        (main,) = [pid for pid, line in running.items() if "--remote-debugging-pipe" in line and "--type=" not in line]
        renderers = [pid for pid, line in running.items() if "--type=renderer" in line]
        assert renderers
        assert not any("--no-sandbox " in line for line in running.values())
        for pid in renderers:
            for kind in ("user", "pid", "net"):
                assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/{main}/ns/{kind}")
            filters, ours = _field(pid, "Seccomp_filters"), _field(main, "Seccomp_filters")
            assert int(filters) > int(ours) > 0
        assert {_field(pid, "NoNewPrivs") for pid in running} == {"1"}
        assert int(_field(main, "CapEff"), 16) == 0
        assert sum(int(_field(pid, "Threads")) for pid in running) < POD_PIDS


async def test_no_process_in_a_pod_shows_its_secrets_to_the_browsers_user(cluster: Cluster, namespace: Kubectl) -> None:
    async with agent(cluster, namespace) as pod:
        running = pod.processes()
        assert any("agent_image.agent" in line for line in running.values())
        shown = {pid: _environment(pid) for pid in running}
        assert [running[pid] for pid, words in shown.items() if TOKEN in words or MODEL_KEY in words] == []
        assert any("XDG_RUNTIME_DIR" in words for words in shown.values()), "nothing at all could be read"
        assert await asyncio.to_thread(namespace, "exec", pod.name, "--", "echo", "looked") == "looked\n"


def _environment(pid: int) -> str:
    """What the pod's user may read of it, without a capability."""
    who = ("setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups", "--")
    return subprocess.run([*who, "cat", f"/proc/{pid}/environ"], capture_output=True, text=True, timeout=10).stdout


async def test_agent_told_to_go_by_berth_and_by_its_node_ends_with_different_codes(
    cluster: Cluster, namespace: Kubectl
) -> None:
    async with agent(cluster, namespace) as ordered, agent(cluster, namespace) as told:
        await ordered.backend.send({"type": "graceful_shutdown", "reason": "test", "withinSeconds": 20})
        python = min(pid for pid, line in told.processes().items() if "agent_image.agent" in line)
        os.kill(python, 15)
        for pod, code in ((ordered, 0), (told, 143)):
            ended = "{.status.containerStatuses[0].state.terminated.exitCode}"
            await asyncio.to_thread(namespace.until, str(code), *_ask(pod.name, ended))
            path = "{.status.containerStatuses[0].state.terminated.message}"
            assert json.loads(await asyncio.to_thread(namespace, *_ask(pod.name, path)))["code"] == code


def _field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
