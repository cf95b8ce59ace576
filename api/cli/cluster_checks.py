"""What the runtime `kubernetes` needs: a cluster that was given and our rights there, or what one of ours takes."""

import asyncio
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from api.cli import rehearsal
from api.cli.verdicts import Check, For, Verdict

if TYPE_CHECKING:
    from core.settings import Settings
    from k8s.client import Cluster

# Written for what 1.30 has; older ones lack fields that pods and policies use.
_OLDEST = (1, 30)
# Threads count: Chromium with a few tabs has some 250.
_PIDS = 512
# Of a large cluster a few nodes tell enough: a node group shares its settings.
_NODES_ASKED = 20
_KUBERNETES = For.KUBERNETES


def cluster_checks(settings: "Settings") -> Iterator[Check]:
    """Asks the cluster, when one is given, and waits for its answer a few seconds at most. Changes nothing."""
    if rehearsal.is_given(settings):
        yield from asyncio.run(_given(settings))
    else:
        yield from _own()


def _own() -> Iterator[Check]:
    from k8s.cluster.cluster import lacks
    from k8s.images.workshop import lacks as builds_lack

    for what, reason, mend in (
        ("a cluster of its own", lacks(), "or set KUBECONFIG to a cluster that you have"),
        ("the agents' image", builds_lack(), "make setup as root, or set KUBECONFIG and bring images yourself"),
    ):
        if reason is None:
            yield Check(_KUBERNETES, what, Verdict.OK, "can be made here")
        else:
            yield Check(_KUBERNETES, what, Verdict.LACKS, reason, mend)


async def _given(settings: "Settings") -> list[Check]:
    from core.errors import RuntimeFault
    from k8s.client import Cluster

    cluster = Cluster(settings.kubernetes)
    try:
        return [
            await _version(cluster),
            await _namespace(cluster, settings),
            await _rights(cluster, settings),
            await _use(cluster),
            await _pids(cluster),
        ]
    except RuntimeFault as error:
        return [Check(_KUBERNETES, "cluster", Verdict.LACKS, error.detail, "correct KUBECONFIG, or start the cluster")]
    finally:
        await cluster.close()


async def _version(cluster: "Cluster") -> Check:
    said = await cluster.call("GET", "/version", doing="asking for the cluster's version")
    major, minor = (re.match(r"\d*", str(said.get(part) or "")) for part in ("major", "minor"))
    found = (int((major and major[0]) or 0), int((minor and minor[0]) or 0))
    told = f"Kubernetes {said.get('gitVersion') or 'of no known version'}"
    if found >= _OLDEST:
        return Check(_KUBERNETES, "cluster", Verdict.OK, told)
    return Check(_KUBERNETES, "cluster", Verdict.LACKS, told, f"use one of {_OLDEST[0]}.{_OLDEST[1]} or newer")


async def _namespace(cluster: "Cluster", settings: "Settings") -> Check:
    from core.errors import RuntimeFault
    from k8s.faults import NotThere

    name, what = settings.kubernetes.namespace, "namespace of the agents"
    try:
        await cluster.call("GET", f"/api/v1/namespaces/{name}/pods", doing="looking for it", query={"limit": 1})
        await cluster.call("GET", f"/api/v1/namespaces/{name}", doing="looking for it")
    except NotThere:
        mend = f"kubectl create namespace {name}, or set BERTH_KUBERNETES__NAMESPACE"
        return Check(_KUBERNETES, what, Verdict.LACKS, f"there is no {name}", mend)
    except RuntimeFault:
        # An account with rights in that namespace alone may not look at the namespace itself.
        return Check(_KUBERNETES, what, Verdict.NOTE, f"{name}, not to be seen with these rights")
    return Check(_KUBERNETES, what, Verdict.OK, name)


async def _rights(cluster: "Cluster", settings: "Settings") -> Check:
    from k8s.rights import missing, unseen

    what = "rights"
    if lacking := await missing(cluster, settings.kubernetes):
        named = ", ".join(str(right) for right in lacking)
        return Check(_KUBERNETES, what, Verdict.LACKS, f"may not: {named}", "add these verbs to the role")
    if hidden := await unseen(cluster, settings.kubernetes):
        found = f"may not see {', '.join(hidden)}: more agents may be let in than there is room for"
        return Check(_KUBERNETES, what, Verdict.NOTE, found, "give all that k8s/manifests/base/access.yaml gives")
    return Check(_KUBERNETES, what, Verdict.OK, "all that Berth needs")


async def _use(cluster: "Cluster") -> Check:
    """Whether the use of nodes can be read: where it is measured and not told, nobody is let in."""
    from core.errors import RuntimeFault
    from k8s.faults import RIGHTS_MISSING, NotThere
    from k8s.room import METRICS

    what = "use of nodes"
    try:
        await cluster.call("GET", METRICS, doing="reading it", query={"limit": 1})
    except NotThere:
        return Check(_KUBERNETES, what, Verdict.NOTE, "not measured, so what fits decides alone", "add metrics-server")
    except RuntimeFault as error:
        if error.error_code == RIGHTS_MISSING:
            return Check(_KUBERNETES, what, Verdict.NOTE, "not to be seen with these rights")
        mend = "mend what serves metrics.k8s.io, or delete its APIService: until then nobody is let in"
        return Check(_KUBERNETES, what, Verdict.LACKS, error.detail, mend)
    return Check(_KUBERNETES, what, Verdict.OK, "measured")


async def _pids(cluster: "Cluster") -> Check:
    """Whether one agent that makes processes without end would take all of a node's."""
    from core.errors import RuntimeFault

    what, mend = "processes of a pod", f"set podPidsLimit to {_PIDS} or more in the kubelet's configuration"
    try:
        listed = await cluster.call("GET", "/api/v1/nodes", doing="listing nodes", query={"limit": _NODES_ASKED})
        names = [str(node["metadata"]["name"]) for node in listed.get("items") or ()]
        limits = dict(zip(names, await asyncio.gather(*(_pids_limit(cluster, name) for name in names)), strict=True))
    except RuntimeFault:
        return Check(_KUBERNETES, what, Verdict.NOTE, "not to be seen with these rights", f"{mend}, where it is not")
    unlimited = [name for name, limit in limits.items() if limit <= 0]
    if unlimited:
        return Check(_KUBERNETES, what, Verdict.NOTE, f"no limit on {', '.join(unlimited)}", mend)
    tight = [name for name, limit in limits.items() if limit < _PIDS]
    if tight:
        return Check(_KUBERNETES, what, Verdict.LACKS, f"fewer than {_PIDS} on {', '.join(tight)}", mend)
    return Check(_KUBERNETES, what, Verdict.OK, f"limited on {', '.join(names) or 'no node yet'}")


async def _pids_limit(cluster: "Cluster", node: str) -> int:
    path = f"/api/v1/nodes/{node}/proxy/configz"
    said = await cluster.call("GET", path, doing=f"asking the kubelet of {node}")
    return int((said.get("kubeletconfig") or {}).get("podPidsLimit") or -1)
