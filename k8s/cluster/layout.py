"""Everything that must lie ready before a cluster's first process starts: files, keys, network, control groups."""

import sys
from pathlib import Path

from core.dev.folder import write_private
from k8s.cluster import binaries, cgroups, network
from k8s.cluster.control import ControlPlane
from k8s.cluster.credentials import Authority
from k8s.cluster.node import Node
from k8s.cluster.plan import Part, Plan
from k8s.cluster.registry import Entry


def lay_out(entry: Entry, built: dict[str, Path]) -> tuple[ControlPlane, tuple[Node, ...]]:
    """Write the plan of the keeper and all it refers to. Raises `CannotStart`; `registry.remove` takes it all away."""
    programs = entry.folder / "bin"
    programs.mkdir(mode=0o711, parents=True, exist_ok=True)
    for name, place in built.items():
        (programs / name).symlink_to(place)
    authority = Authority(entry.folder / "pki")
    plane = ControlPlane.choose(entry.folder, entry.network)
    nodes = tuple(
        Node(number=number, cluster_folder=entry.folder, network=entry.network) for number in range(1, entry.nodes + 1)
    )
    network.make(entry.network, entry.nodes)
    for group in (f"{entry.group}/keeper", *(name for each in nodes for name in (each.group, each.own_group))):
        cgroups.make(group)
    parts = plane.parts(programs, authority)
    parts += [each.part(programs, authority, plane.server) for each in nodes]
    parts += _helpers(entry.folder, authority, plane.server, nodes)
    plan = Plan(folder=entry.folder, group=f"{entry.group}/keeper", parts=tuple(parts))
    write_private(entry.folder / "plan.json", plan.model_dump_json(indent=2))
    authority.kubeconfig(entry.folder / "kubeconfig", plane.server, "berth-admin", ["system:masters"])
    return plane, nodes


def _helpers(folder: Path, authority: Authority, server: str, nodes: tuple[Node, ...]) -> list[Part]:
    """What runs beside the control plane: volumes always, KWOK when it is asked for."""
    kubeconfig = authority.kubeconfig(folder / "helpers.kubeconfig", server, "berth-helpers", ["system:masters"])
    volumes = [sys.executable, "-m", "k8s.cluster.volumes", str(kubeconfig), str(folder / "volumes")]
    kwok = [str(folder / "bin" / binaries.KWOK.name), f"--kubeconfig={kubeconfig}", "--manage-all-nodes=false"]
    kwok += ["--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node"]
    return [
        Part(name="volumes", argv=(*volumes, *(each.name for each in nodes))),
        Part(name=binaries.KWOK.name, argv=tuple(kwok)),
    ]
