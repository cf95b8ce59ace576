"""Nodes as the scheduler sees them: what each has, what is taken, and whether it takes pods of a template. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.domain.placement import Effect, KubernetesTemplate, Toleration, TolerationOperator
from core.domain.templates import MIB, Resources
from k8s.marks import NAMING, PLACEHOLDER
from k8s.quantities import quantity

Json = Mapping[str, Any]
_ENDED = frozenset({"Succeeded", "Failed"})
# The others, for a server to choose.
LIVING = ",".join(f"status.phase!={phase}" for phase in sorted(_ENDED))
_DEFAULT_PODS = 110
# A cordoned node is said twice: as a field, and by a taint that comes a moment later.
_CORDONED = "node.kubernetes.io/unschedulable"
# Of a node that is ill, has only just come, or is emptied: set by Kubernetes, the cloud and the autoscaler themselves,
# which take it off again, or the node with it.
_PASSING = frozenset(
    {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/pid-pressure",
        "node.kubernetes.io/network-unavailable",
        "node.cloudprovider.kubernetes.io/uninitialized",
        "ToBeDeletedByClusterAutoscaler",
        "DeletionCandidateOfClusterAutoscaler",
    }
)


@dataclass(frozen=True)
class Demand:
    """What one pod asks for: cores, bytes, and a place of a node's limit of pods."""

    cpu: float
    memory: float
    pods: int = 1


@dataclass
class Node:
    """`cpu`, `memory` and `pods` are all that pods may use; `taken` is what those on it asked for."""

    name: str
    cpu: float
    memory: float
    pods: int
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Json] = ()
    open: bool = True
    taken: list[Demand] = field(default_factory=list)

    def places(self, wanted: Demand) -> int:
        """How many more pods like that have room on it. Rounded in thousandths of a core and whole bytes."""
        cpu = self.cpu - sum(demand.cpu for demand in self.taken)
        memory = self.memory - sum(demand.memory for demand in self.taken)
        pods = self.pods - sum(demand.pods for demand in self.taken)
        by_cpu = round(cpu * 1000) // max(1, round(wanted.cpu * 1000))
        by_memory = round(memory) // max(1, round(wanted.memory))
        return max(0, min(by_cpu, by_memory, pods // wanted.pods))

    def could_hold(self, wanted: Demand) -> bool:
        """Whether the empty node would have room for one."""
        return self.cpu + 1e-6 >= wanted.cpu and self.memory >= wanted.memory

    def admits(self, wanted: KubernetesTemplate, *, ever: bool = False) -> bool:
        """Whether selectors, affinity and taints let such a pod on it now, room aside; with `ever`, were it well."""
        selected = all(self.labels.get(key) == value for key, value in wanted.node_selector.items())
        tainted = any(
            taint.get("effect") in (Effect.NO_SCHEDULE, Effect.NO_EXECUTE)
            and not (ever and taint.get("key") in _PASSING)
            and not any(_tolerates(each, taint) for each in wanted.tolerations)
            for taint in self.taints
        )
        return selected and not tainted and _has_affinity(self, wanted.affinity)


def node_seen(item: Json) -> dict[str, Any]:
    """A node as JSON, reduced to what is read of it here: most of the rest are names of images."""
    metadata, spec, status = item.get("metadata") or {}, item.get("spec") or {}, item.get("status") or {}
    return {
        "metadata": _only(metadata, "name", "labels"),
        "spec": _only(spec, "taints", "unschedulable"),
        "status": {
            **_only(status, "allocatable"),
            "conditions": [each for each in status.get("conditions") or () if each.get("type") == "Ready"],
        },
    }


def pod_seen(item: Json) -> dict[str, Any]:
    """A pod as JSON, reduced to what is read of it here: of everybody's pods there may be tens of thousands."""
    metadata, spec, status = item.get("metadata") or {}, item.get("spec") or {}, item.get("status") or {}
    return {
        "metadata": {
            **_only(metadata, "labels"),
            "annotations": _only(metadata.get("annotations") or {}, *NAMING),
        },
        "spec": {
            **_only(spec, "nodeName", "overhead", "resources"),
            # Of one that has its node already nobody asks where it might be placed.
            **({} if spec.get("nodeName") else _only(spec, "nodeSelector", "affinity", "tolerations")),
            "containers": [_only(each, "resources") for each in spec.get("containers") or ()],
            "initContainers": [_only(each, "resources", "restartPolicy") for each in spec.get("initContainers") or ()],
        },
        "status": _only(status, "phase"),
    }


def _only(part: Json, *names: str) -> dict[str, Any]:
    return {name: part[name] for name in names if name in part}


def demand_of(wanted: Resources) -> Demand:
    return Demand(cpu=wanted.cpu, memory=wanted.memory_mib * MIB)


def nodes_of(items: Iterable[Json], pods: Iterable[Json] = (), priority_class: str | None = None) -> list[Node]:
    """Nodes with the pods that are on them, as one of `priority_class` finds them."""
    found = {node.name: node for node in map(_node, items)}
    for pod in pods:
        name = (pod.get("spec") or {}).get("nodeName")
        if name in found and not ended(pod) and not yields(pod, priority_class):
            found[name].taken.append(asked_by(pod))
    return list(found.values())


def yields(pod: Json, priority_class: str | None) -> bool:
    """A placeholder keeps room for agents of one class, so what it holds is theirs. Others would not push it aside."""
    keeps_for = ((pod.get("metadata") or {}).get("labels") or {}).get(PLACEHOLDER)
    return keeps_for is not None and keeps_for == priority_class


def ended(pod: Json) -> bool:
    """A pod that has run holds nothing any more."""
    return (pod.get("status") or {}).get("phase") in _ENDED


def asked_by(pod: Json) -> Demand:
    """What the scheduler counts for a pod: its containers, or the largest that prepares it, and its overhead."""
    spec = pod.get("spec") or {}
    return Demand(cpu=_asked(spec, "cpu"), memory=_asked(spec, "memory"))


def placing_of(pod: Json) -> KubernetesTemplate:
    """Where a pod may be placed: its selector, affinity and tolerations."""
    spec = pod.get("spec") or {}
    return KubernetesTemplate(
        node_selector=spec.get("nodeSelector") or {},
        affinity=spec.get("affinity") or {},
        tolerations=tuple(
            Toleration(
                key=each.get("key") or None,
                operator=each.get("operator") or TolerationOperator.EQUAL,
                value=each.get("value"),
                effect=each.get("effect") or None,
            )
            for each in spec.get("tolerations") or ()
        ),
    )


def _asked(spec: Json, what: str) -> float:
    whole = ((spec.get("resources") or {}).get("requests") or {}).get(what)
    overhead = quantity((spec.get("overhead") or {}).get(what))
    if whole is not None:
        return quantity(whole) + overhead
    running = sum(_request(each, what) for each in spec.get("containers") or ())
    peak, beside = 0.0, 0.0
    for each in spec.get("initContainers") or ():
        if each.get("restartPolicy") == "Always":
            beside += _request(each, what)
        else:
            peak = max(peak, beside + _request(each, what))
    return max(running + beside, peak) + overhead


def _request(container: Json, what: str) -> float:
    return quantity(((container.get("resources") or {}).get("requests") or {}).get(what))


def is_ready(item: Json) -> bool:
    """Whether a node as JSON says that it works, closed to newcomers or not."""
    said = (item.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in said)


def _node(item: Json) -> Node:
    metadata, spec, status = item.get("metadata") or {}, item.get("spec") or {}, item.get("status") or {}
    has = status.get("allocatable") or {}
    return Node(
        name=str(metadata.get("name") or ""),
        cpu=quantity(has.get("cpu")),
        memory=quantity(has.get("memory")),
        pods=int(quantity(has.get("pods", _DEFAULT_PODS))),
        labels=metadata.get("labels") or {},
        taints=[taint for taint in spec.get("taints") or () if taint.get("key") != _CORDONED],
        open=is_ready(item) and not spec.get("unschedulable"),
    )


def _tolerates(mine: Toleration, taint: Json) -> bool:
    if mine.effect is not None and mine.effect != taint.get("effect"):
        return False
    if mine.key is None:
        return mine.operator is TolerationOperator.EXISTS
    if mine.key != taint.get("key"):
        return False
    return mine.operator is TolerationOperator.EXISTS or (mine.value or "") == (taint.get("value") or "")


def _has_affinity(node: Node, affinity: Json) -> bool:
    required = (affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms")
    return not terms or matches_terms(node, terms)


def matches_terms(node: Node, terms: Sequence[Json]) -> bool:
    """Whether one of the terms of a node selector holds for it."""
    return any(
        all(_matches(node.labels.get(each.get("key", "")), each) for each in term.get("matchExpressions") or ())
        and all(_matches(node.name, each) for each in term.get("matchFields") or ())
        for term in terms
        if term
    )


def _matches(value: str | None, wanted: Json) -> bool:
    values = wanted.get("values") or ()
    match wanted.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and quantity(value) > quantity(values[0] if values else None)
        case "Lt":
            return value is not None and quantity(value) < quantity(values[0] if values else None)
        case _:
            return False
