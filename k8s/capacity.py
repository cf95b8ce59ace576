"""How much room a cluster has for agents: node by node, within the namespace's quota, beside what is used. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.domain.sizes import Size
from core.domain.templates import MIB, Template
from core.errors import NeverSatisfiable
from core.runtime.base import ClusterCapacity
from k8s import marks
from k8s.nodes import Demand, Node, asked_by, demand_of, ended, is_ready, nodes_of, placing_of, yields
from k8s.quantities import quantity

Json = Mapping[str, Any]
_COUNTED = ("pods", "count/pods", "secrets", "count/secrets", "services", "count/services")
_UNLIMITED = 1 << 31


def capacity(
    nodes: Sequence[Json],
    pods: Sequence[Json],
    template: Template,
    installation: str,
    *,
    wanted: Mapping[str, Template] | None = None,
    quotas: Sequence[Json] = (),
    metrics: Iterable[Json] | None = None,
) -> ClusterCapacity:
    """One look. Pods of each `wanted` template are counted, on the nodes that would take it; else those of `template`.

    Agents that the scheduler has not placed yet have their place taken. `metrics` are `NodeMetrics` of metrics.k8s.io;
    without them nothing is said of use, which is that of the nodes that take any of these pods.
    """
    asked = wanted or {"": template}
    # What is on a machine that has gone silent takes no place any more: it will ask for another one.
    well = {(node.get("metadata") or {}).get("name") for node in nodes if is_ready(node)} | {None, ""}
    ours = (pod for pod in pods if _is_ours(pod, installation) and not ended(pod))
    living = [pod for pod in ours if (pod.get("spec") or {}).get("nodeName") in well]
    classes = {each.kubernetes.priority_class for each in asked.values()}
    open_nodes = {each: _open_nodes(nodes, pods, living, each) for each in classes}
    taking = {
        name: [node for node in open_nodes[each.kubernetes.priority_class] if node.admits(each.kubernetes)]
        for name, each in asked.items()
    }
    usable = [*{node.name: node for taken in taking.values() for node in taken}.values()]
    fits_of = {name: _fits(taking[name], each, quotas) for name, each in asked.items()}
    use = {item["metadata"]["name"]: item.get("usage") or {} for item in metrics or ()}
    return ClusterCapacity(
        fits=next(iter(fits_of.values())),
        fits_of=fits_of if wanted else {},
        agents=len(living),
        here=tuple(mark.agent_id for mark in map(marks.of, living) if mark is not None) if len(asked) > 1 else (),
        cpu_percent=_percent(usable, use, "cpu"),
        memory_percent=_percent(usable, use, "memory"),
        memory_bytes=int(sum(node.memory for node in usable)) or None,
        schedulable_nodes=len(usable),
    )


def _open_nodes(
    nodes: Sequence[Json], pods: Sequence[Json], living: Sequence[Json], priority_class: str | None
) -> list[Node]:
    """Those that take pods, as agents of a priority class find them."""
    found = [node for node in nodes_of(nodes, pods, priority_class) if node.open]
    for pod in living:
        if not (pod.get("spec") or {}).get("nodeName"):
            asks = placing_of(pod)
            _place([node for node in found if node.admits(asks)], asked_by(pod))
    return found


def _fits(nodes: Sequence[Node], template: Template, quotas: Iterable[Json]) -> int:
    asks = demand_of(template.resources)
    return min([sum(node.places(asks) for node in nodes), *(_quota_room(quota, template) for quota in quotas)])


def check(nodes: Sequence[Json], template: Template) -> None:
    """Raises `NeverSatisfiable` when no node that would take such a pod is large enough, were it empty.

    Nodes that are closed or ill for now count, and where there is none at all nothing is known: one may be added.
    """
    wanted = demand_of(template.resources)
    admitting = [node for node in nodes_of(nodes) if node.admits(template.kubernetes, ever=True)]
    if not admitting or any(node.could_hold(wanted) for node in admitting):
        return
    asked = template.resources
    raise NeverSatisfiable(
        f"a template asks for {asked.cpu:g} cores and {asked.memory_mib} MiB of memory; no node it may run on has both "
        f"(at most {max(node.cpu for node in admitting):g} cores, "
        f"{math.floor(max(node.memory for node in admitting) / MIB)} MiB)"
    )


def check_size(nodes: Sequence[Json], size: Size) -> None:
    """Raises `NeverSatisfiable` for limits beyond the largest node. Where there is none at all nothing is known."""
    found = nodes_of(nodes)
    if found and not any(node.cpu >= size.cpu and node.memory >= size.memory_mib * MIB for node in found):
        raise NeverSatisfiable(
            f"no machine of the cluster has {size}: at most {max(node.cpu for node in found):g} cores and "
            f"{math.floor(max(node.memory for node in found) / MIB)} MiB"
        )


def nodes_with(nodes: Sequence[Json], pods: Sequence[Json], template: Template) -> list[Node]:
    """Nodes with what is on them, and with what is still on its way to one, as an agent of `template` finds them."""
    priority_class = template.kubernetes.priority_class
    found = nodes_of(nodes, pods, priority_class)
    for pod in pods:
        if not ended(pod) and not yields(pod, priority_class) and not (pod.get("spec") or {}).get("nodeName"):
            _place([node for node in found if node.open], asked_by(pod))
    return found


def _place(nodes: Sequence[Node], demand: Demand) -> None:
    """Take a place on the node that has most left, as the scheduler usually does."""
    roomy = max(nodes, key=lambda node: node.places(demand), default=None)
    if roomy is not None and roomy.places(demand) > 0:
        roomy.taken.append(demand)


def _is_ours(pod: Json, installation: str) -> bool:
    labels = (pod.get("metadata") or {}).get("labels") or {}
    return labels.get("app") == marks.APP and labels.get(marks.INSTALLATION) == installation


def _quota_room(quota: Json, template: Template) -> int:
    """How many more agents a ResourceQuota allows. One for some pods only is left to the cluster to judge."""
    spec, status = quota.get("spec") or {}, quota.get("status") or {}
    if spec.get("scopes") or spec.get("scopeSelector"):
        return _UNLIMITED
    asked = template.resources
    needs = {
        **dict.fromkeys(_COUNTED, 1.0),
        **dict.fromkeys(("cpu", "requests.cpu"), asked.cpu),
        **dict.fromkeys(("memory", "requests.memory"), asked.memory_mib * float(MIB)),
        "limits.cpu": asked.cpu_limit,
        "limits.memory": asked.memory_limit_mib * float(MIB),
    }
    used = status.get("used") or {}
    room = [
        math.floor((quantity(hard) - quantity(used.get(name))) / needs[name] + 1e-9)
        for name, hard in (status.get("hard") or spec.get("hard") or {}).items()
        if name in needs
    ]
    return max(0, min(room, default=_UNLIMITED))


def _percent(nodes: Sequence[Node], use: Mapping[str, Json], what: str) -> float | None:
    """Of all nodes that are measured together."""
    measured = [node for node in nodes if node.name in use]
    total = sum(node.cpu if what == "cpu" else node.memory for node in measured)
    if total <= 0:
        return None
    return 100 * sum(quantity(use[node.name].get(what)) for node in measured) / total
