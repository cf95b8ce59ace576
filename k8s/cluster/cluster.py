"""One cluster: bring it up, take it down, and break it where a test wants it broken."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from core import launch
from core.dev.failure import CannotStart
from core.dev.folder import write_private
from k8s.cluster import addons, binaries, cgroups, control, images, layout, machine, node, registry
from k8s.cluster.client import Client
from k8s.cluster.control import ControlPlane
from k8s.cluster.node import Node
from k8s.cluster.orders import Orders
from k8s.cluster.registry import Entry

_KEEPER_SECONDS = 30.0
_PART_SECONDS = 60.0
_READY_SECONDS = 90.0

_keepers: dict[Path, "subprocess.Popen[bytes]"] = {}  # this process's own children, to be waited for

Announce = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def lacks() -> str | None:
    """Why no cluster of ours can be had on this machine, in one line; None when one can."""
    return machine.lacks() or binaries.lacks()


class Cluster(BaseModel):
    """A running cluster of ours, from any process of this machine. Its methods raise `CannotStart`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: Path
    control: ControlPlane
    nodes: tuple[Node, ...]

    @classmethod
    def start(cls, folder: Path, nodes: int = 1, *, detached: bool = False, announce: Announce = _silent) -> "Cluster":
        """Bring a new cluster up in `folder`, in seconds once its programs are built, and return when nodes are Ready.

        What is left of dead clusters on this machine is removed first. Unless `detached` the cluster dies with this
        process, and must be started from a thread that lives as long as it.
        """
        if reason := lacks():
            raise CannotStart(f"No cluster can run here: {reason}.")
        folder = folder.resolve()
        built = binaries.build(announce)
        with registry.locked():
            registry.remove_leftovers()
            if registry.at(folder) is not None:
                raise CannotStart(f"A cluster runs in {folder} already, or is being brought up.")
            if folder.is_dir() and any(folder.iterdir()):
                raise CannotStart(f"{folder} holds something else; give a new folder.")
            entry = registry.enter(folder, nodes, node.MOUNT_POINTS)
            try:
                cluster = cls._lay_out(entry, built)
                entry = cluster._spawn_keeper(entry, detached)
            except BaseException:
                registry.remove(entry)
                raise
        try:
            cluster._bring_up(announce)
            entry.model_copy(update={"starter": None}).write()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def at(cls, folder: Path) -> "Cluster | None":
        """The cluster that runs in `folder`."""
        entry = registry.at(folder.resolve())
        if entry is None or entry.starter is not None or not entry.lives():
            return None
        return cls.model_validate_json((entry.folder / "cluster.json").read_text())

    @classmethod
    def of(cls, kubeconfig: Path) -> "Cluster | None":
        """The cluster of ours that `kubeconfig` (or what it links to) belongs to; None when it is somebody else's."""
        return cls.at(kubeconfig.resolve().parent)

    def stop(self) -> None:
        """End it and remove all it made, its folder included. Nothing happens when it is gone."""
        with registry.locked():
            entry = registry.at(self.folder)
            if entry is not None:
                registry.remove(entry)
        if (keeper := _keepers.pop(self.folder, None)) is not None:
            keeper.wait(_KEEPER_SECONDS)

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator; works from this machine and from pods."""
        return self.folder / "kubeconfig"

    @property
    def kubectl(self) -> Path:
        return self.folder / "bin" / "kubectl"

    @property
    def audit_log(self) -> Path:
        """A JSON line for each request to the API server: who, which verb, on what."""
        return self.control.audit_log

    @property
    def host_address(self) -> str:
        """This machine's address as pods reach it; listen on it, or on 0.0.0.0, for them."""
        return self.control.network.host

    @property
    def containerd_sockets(self) -> list[Path]:
        return [each.containerd_socket for each in self.nodes]

    def stop_kubelet(self, name: str) -> None:
        """Kill the node's kubelet (SIGKILL); its containers run on. The node is NotReady 20 to 26 s later."""
        self._on(name).kill("kubelet")

    def start_kubelet(self, name: str) -> None:
        self._on(name).start("kubelet")

    def stop_node(self, name: str) -> None:
        """Cut the node's power: all its processes and containers die at once. Return when they are dead."""
        node = self._node(name)
        self._orders.kill(node.name)
        for group in (node.own_group, node.group):
            cgroups.await_empty(group, _PART_SECONDS)

    def start_node(self, name: str) -> None:
        """Boot the node; return when it runs its kubelet (not yet Ready)."""
        self._start_node(self._node(name))

    def stop_api_server(self) -> None:
        """Kill the API server (SIGKILL)."""
        self._orders.kill("kube-apiserver")

    def start_kwok(self, announce: Announce = _silent) -> None:
        """Run KWOK, which plays every node that is annotated `kwok.x-k8s.io/node`, and the pods on it."""
        built = binaries.build(announce, also=(binaries.KWOK,))
        link = self.folder / "bin" / binaries.KWOK.name
        if not link.exists():
            link.symlink_to(built[binaries.KWOK.name])
        self._orders.start(binaries.KWOK.name)

    def start_api_server(self) -> None:
        """Start the API server; return when it is ready."""
        self._orders.start("kube-apiserver")
        Client(self.kubeconfig).wait("/readyz", _PART_SECONDS)

    @property
    def _orders(self) -> Orders:
        return Orders(self.folder)

    def _on(self, name: str) -> Orders:
        return Orders(self._node(name).folder)

    def _node(self, name: str) -> Node:
        found = next((each for each in self.nodes if each.name == name), None)
        if found is None:
            raise CannotStart(f"There is no node {name!r}; there are {', '.join(each.name for each in self.nodes)}.")
        return found

    @classmethod
    def _lay_out(cls, entry: Entry, built: dict[str, Path]) -> "Cluster":
        plane, nodes = layout.lay_out(entry, built)
        cluster = cls(folder=entry.folder, control=plane, nodes=nodes)
        write_private(entry.folder / "cluster.json", cluster.model_dump_json(indent=2))
        return cluster

    def _spawn_keeper(self, entry: Entry, detached: bool) -> Entry:
        argv = [sys.executable, "-m", "k8s.cluster.keeper", str(self.folder / "plan.json")]
        with open(self.folder / "keeper.log", "ab") as log:
            process = subprocess.Popen(
                launch.command(argv, die_with_parent=not detached),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _keepers[self.folder] = process
        started = launch.start_time(process.pid)
        if started is None:
            raise CannotStart(f"The keeper ended at once (log: {self.folder}/keeper.log).")
        entry = entry.model_copy(update={"keeper": (process.pid, started)})
        entry.write()
        return entry

    def _bring_up(self, announce: Announce) -> None:
        client = Client(self.kubeconfig)
        orders = self._orders
        orders.wait(_KEEPER_SECONDS)
        for each in self.nodes:
            orders.start(each.name)  # boots beside the control plane
        for part in control.PARTS[:2]:
            orders.start(part)
        tiny = images.pack(self.folder / "bin" / "tiny", node.PAUSE_IMAGE, self.folder / "tiny.tar")
        names = images.pack(self.folder / "bin" / "coredns", addons.DNS_IMAGE, self.folder / "coredns.tar")
        client.wait("/readyz", _PART_SECONDS)
        announce("API server ready")
        for part in control.PARTS[2:]:
            orders.start(part)
        for each in self.nodes:
            self._start_node(each, tiny, names)
        for archive in (tiny, names):
            archive.unlink()
        addons.apply(client, self.control.network)
        orders.start("volumes")
        for each in self.nodes:
            client.wait_ready(each.name, _READY_SECONDS)
            announce(f"{each.name} ready")
        # Without it no pod can be made in the namespace; the controller manager makes it.
        client.wait("/api/v1/namespaces/default/serviceaccounts/default", _PART_SECONDS)

    def _start_node(self, each: Node, *archives: Path) -> None:
        self._orders.start(each.name)
        orders = self._on(each.name)
        orders.wait(_KEEPER_SECONDS)
        orders.start("containerd")
        each.wait_containerd(_PART_SECONDS)
        for archive in archives:
            images.load(archive, each.containerd_socket)
        for part in ("kubelet", "kube-proxy"):
            orders.start(part)


@contextmanager
def running(folder: Path, nodes: int = 1, announce: Announce = _silent) -> Iterator[Cluster]:
    """A cluster for the length of a block; it also dies with this process."""
    cluster = Cluster.start(folder, nodes, announce=announce)
    try:
        yield cluster
    finally:
        cluster.stop()
