"""A node: a keeper in namespaces of its own, which runs containerd, kubelet and kube-proxy.

Processes, mounts and network of a node are in namespaces that its keeper is the first process of. When that one dies,
however it dies, the kernel ends all its processes, containers and their shims included, and all its mounts are gone.
Inside, everything lies where it lies on any node: the kubelet's folder at /var/lib/kubelet, and so on.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from core.dev.failure import CannotStart
from core.dev.folder import write_private
from k8s.cluster import machine
from k8s.cluster.credentials import Authority
from k8s.cluster.network import Network
from k8s.cluster.plan import Part, Plan

PARTS = ("containerd", "kubelet", "kube-proxy")
PAUSE_IMAGE = "localhost/berth/tiny:1"
# What a node has for itself, below its folder, at the places where everybody looks for it.
_PLACES = {
    "kubelet": "/var/lib/kubelet",
    "containerd": "/var/lib/containerd",
    "cni": "/var/lib/cni",
    "run": "/run/containerd",
    "pods": "/var/log/pods",
    "logs": "/var/log/containers",
}
_SECCOMP = Path(__file__).resolve().parent.parent / "seccomp"

MOUNT_POINTS = tuple(_PLACES.values())


class Node(BaseModel):
    """Node `number`, from 1 on, of the cluster in `cluster_folder`; `group` is its control group."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int
    cluster_folder: Path
    network: Network

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def folder(self) -> Path:
        return self.cluster_folder / self.name

    @property
    def address(self) -> str:
        return self.network.node(self.number)

    @property
    def containerd_socket(self) -> Path:
        return self.folder / "run" / "containerd.sock"

    @property
    def group(self) -> str:
        return f"berth-cluster-{self.network.second}/{self.name}"

    @property
    def own_group(self) -> str:
        """Where the node's own parts are, apart from its pods."""
        return f"{self.group}-system"

    def part(self, programs: Path, authority: Authority, server: str) -> Part:
        """Writes the node's files, and says how to run its keeper."""
        for name in _PLACES:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._install_seccomp()
        (self.folder / "cni.d").mkdir(exist_ok=True)
        (self.folder / "cni.d" / "10-pods.conflist").write_text(json.dumps(self._pod_network(), indent=2))
        (self.folder / "containerd.toml").write_text(self._containerd())
        kubelet = {"kubelet-kubeconfig": f"system:node:{self.name}", "proxy-kubeconfig": "system:kube-proxy"}
        for file, user in kubelet.items():
            groups = ["system:nodes"] if user.startswith("system:node:") else []
            authority.kubeconfig(self.folder / f"{self.name}-{file}", server, user, groups)
        serving = authority.server(f"{self.name}-kubelet", [self.address, self.name])
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet(authority.certificate, serving), indent=2))
        plan = Plan(folder=self.folder, group=self.own_group, parts=tuple(self._parts(programs)))
        write_private(self.folder / "plan.json", plan.model_dump_json(indent=2))
        return Part(
            name=self.name, argv=self._enter(sys.executable, "-m", "k8s.cluster.keeper", f"{plan.folder}/plan.json")
        )

    def wait_containerd(self, seconds: float) -> None:
        """Return when containerd answers. Raises `CannotStart`."""
        deadline = time.monotonic() + seconds
        argv = ["ctr", "--address", str(self.containerd_socket), "version"]
        while subprocess.run(argv, capture_output=True, timeout=seconds).returncode:
            if time.monotonic() > deadline:
                raise CannotStart(f"containerd of {self.name} does not answer (log: {self.folder}/log/containerd.log).")
            time.sleep(0.05)

    def _enter(self, *argv: str) -> tuple[str, ...]:
        # Mounts made inside reach the node's containers (shared), and nobody outside (made private first).
        mounts = [f"mount --bind {shlex.quote(str(self.folder / name))} {place}" for name, place in _PLACES.items()]
        script = "\n".join(
            [
                "set -eu",
                "mount --make-rshared /",
                "while umount -l /run/netns 2>/dev/null; do :; done",  # else it would hold the others' namespaces
                *mounts,
                'exec "$@"',
            ]
        )
        enter = ["nsenter", f"--net=/run/netns/{self.network.namespace(self.number)}", "--"]
        leave = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
        return (*enter, *leave, "/bin/sh", "-c", script, self.name, *argv)

    def _parts(self, programs: Path) -> list[Part]:
        kubeconfig, proxy = (f"{self.folder}/{self.name}-{name}-kubeconfig" for name in ("kubelet", "proxy"))
        kubelet = [f"--kubeconfig={kubeconfig}", f"--config={self.folder}/kubelet.json"]
        kubelet += [f"--hostname-override={self.name}", f"--node-ip={self.address}"]
        flags = [f"--kubeconfig={proxy}", "--proxy-mode=nftables", f"--hostname-override={self.name}"]
        flags += [f"--cluster-cidr={self.network.everything}", f"--bind-address={self.address}"]
        # These are limits of the whole machine, which are not ours to set.
        flags += ["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"]
        flags += ["--conntrack-tcp-timeout-close-wait=0s"]
        return [
            Part(name="containerd", argv=("containerd", f"--config={self.folder}/containerd.toml")),
            Part(name="kubelet", argv=(str(programs / "kubelet"), *kubelet)),
            Part(name="kube-proxy", argv=(str(programs / "kube-proxy"), *flags)),
        ]

    def _install_seccomp(self) -> None:
        folder = self.folder / "kubelet" / "seccomp"
        folder.mkdir(exist_ok=True)
        for profile in sorted(_SECCOMP.glob("*.json")):
            (folder / profile.name).write_bytes(profile.read_bytes())

    def _pod_network(self) -> dict[str, object]:
        # No masquerading here: routes of this machine and of the other node know the pods' addresses.
        bridge = {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": self.network.pods(self.number)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}

    def _containerd(self) -> str:
        restrict = str(not machine.may_protect_from_oom()).lower()
        return f"""\
version = 2
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
enable_unprivileged_ports = true
netns_mounts_under_state_dir = true
restrict_oom_score_adj = {restrict}
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{machine.plugins()}"
conf_dir = "{self.folder}/cni.d"
"""

    def _kubelet(self, authority: Path, serving: tuple[Path, Path]) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving[0]),
            "tlsPrivateKeyFile": str(serving[1]),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.group}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # lower ones need CAP_SYS_RESOURCE
            "podPidsLimit": 512,
            "maxPods": 250,
            "clusterDomain": "cluster.local",
            "clusterDNS": [self.network.dns_service],
            "resolvConf": str(machine.resolver()),
            "nodeStatusUpdateFrequency": "4s",
            # The disk is this machine's, with much else on it: neither its filling nor our images are the pods' doing.
            "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }
