"""The control plane: etcd, API server, controller manager and scheduler, as processes of this machine."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from core.dev.ports import Ports
from k8s.cluster.credentials import Authority
from k8s.cluster.network import Network
from k8s.cluster.plan import Part

API_PORT = 6443
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""


class ControlPlane(BaseModel):
    """Where it listens and writes. The API server listens on the cluster's bridge alone, so its port is always free."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: Path
    network: Network
    etcd_port: int
    peer_port: int

    @classmethod
    def choose(cls, folder: Path, network: Network) -> "ControlPlane":
        ports = Ports()
        return cls(folder=folder, network=network, etcd_port=ports.pick(0), peer_port=ports.pick(0))

    @property
    def server(self) -> str:
        return f"https://{self.network.host}:{API_PORT}"

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    def parts(self, programs: Path, authority: Authority) -> list[Part]:
        """Writes their files, and says how to run them."""
        (self.folder / "audit-policy.yaml").write_text(_AUDIT_POLICY)
        private, public = authority.token_key()
        return [
            self._etcd(programs),
            self._api_server(programs, authority, private, public),
            self._controller_manager(programs, authority, private),
            self._scheduler(programs, authority),
        ]

    def _etcd(self, programs: Path) -> Part:
        own, peers = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        flags = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": own,
            "advertise-client-urls": own,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
            "unsafe-no-fsync": "true",  # the data is not to survive a power cut
        }
        return _part(programs / "etcd", flags)

    def _api_server(self, programs: Path, authority: Authority, private: Path, public: Path) -> Part:
        network = self.network
        names = [network.host, network.api_service, "127.0.0.1", "localhost", "kubernetes"]
        names += ["kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        certificate, key = authority.server("kube-apiserver", names)
        own, own_key = authority.client("kube-apiserver-kubelet", "kube-apiserver", ["system:masters"])
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self.etcd_port}",
            "service-cluster-ip-range": network.services,
            "bind-address": network.host,
            "advertise-address": network.host,
            "secure-port": API_PORT,
            "tls-cert-file": certificate,
            "tls-private-key-file": key,
            "client-ca-file": authority.certificate,
            "kubelet-certificate-authority": authority.certificate,
            "kubelet-client-certificate": own,
            "kubelet-client-key": own_key,
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-key-file": public,
            "service-account-signing-key-file": private,
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "audit-policy-file": self.folder / "audit-policy.yaml",
            "audit-log-path": self.audit_log,
            "profiling": "false",
        }
        return _part(programs / "kube-apiserver", flags)

    def _controller_manager(self, programs: Path, authority: Authority, private: Path) -> Part:
        kubeconfig = authority.kubeconfig(
            self.folder / "controller-manager.kubeconfig", self.server, "system:kube-controller-manager"
        )
        flags = {
            "kubeconfig": kubeconfig,
            "service-account-private-key-file": private,
            "root-ca-file": authority.certificate,
            "use-service-account-credentials": "true",
            "leader-elect": "false",
            "secure-port": 0,
            "node-monitor-period": "2s",
            "node-monitor-grace-period": "20s",  # 50 s is the default; tests of a lost node wait for it
        }
        return _part(programs / "kube-controller-manager", flags)

    def _scheduler(self, programs: Path, authority: Authority) -> Part:
        kubeconfig = authority.kubeconfig(self.folder / "scheduler.kubeconfig", self.server, "system:kube-scheduler")
        return _part(programs / "kube-scheduler", {"kubeconfig": kubeconfig, "leader-elect": "false", "secure-port": 0})


def _part(program: Path, flags: dict[str, object]) -> Part:
    return Part(name=program.name, argv=(str(program), *(f"--{name}={value}" for name, value in flags.items())))
