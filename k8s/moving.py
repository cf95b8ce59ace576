"""Whether a pod could be begun again on another node, with its profile: node by node, and why not."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.domain.placement import KubernetesTemplate
from core.domain.templates import Template
from core.errors import RuntimePermanent
from k8s.nodes import Node, demand_of, matches_terms
from k8s.space import Space

Json = Mapping[str, Any]
_VOLUME = "profile"
_MOST_NAMED = 5


def require_other(nodes: Sequence[Node], at: str, template: Template, terms: Sequence[Json]) -> None:
    """Raises `RuntimePermanent` when no node but `at` would take it now; `terms` are those of its profile's volume."""
    others = [node for node in nodes if node.name != at]
    if not others:
        raise RuntimePermanent(f"the cluster has no machine but {at}")
    reasons = {node.name: _why_not(node, template, terms) for node in others}
    if all(reasons.values()):
        told = [f"{name} {why}" for name, why in sorted(reasons.items())]
        more = f", and {len(told) - _MOST_NAMED} more" if len(told) > _MOST_NAMED else ""
        raise RuntimePermanent(f"no other machine would take it: {'; '.join(told[:_MOST_NAMED])}{more}")


def _why_not(node: Node, template: Template, terms: Sequence[Json]) -> str | None:
    wanted: KubernetesTemplate = template.kubernetes
    if not node.open:
        return "is closed or not ready"
    if not node.admits(wanted):
        return "is not for agents of its template"
    if terms and not matches_terms(node, terms):
        return "cannot reach the volume of its profile"
    if node.places(demand_of(template.resources)) < 1:
        return "has no room for it"
    return None


async def volume_terms(space: Space, pod: Json, doing: str) -> list[Json]:
    """Where the volume of a pod's profile can be reached; empty for everywhere.

    Raises `RuntimePermanent` for a profile that has no volume: it would be lost with the pod.
    """
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    claim = next((each.get("persistentVolumeClaim") for each in volumes if each.get("name") == _VOLUME), None)
    if not claim:
        raise RuntimePermanent("its template keeps no profile (kubernetes.profile), so it would be lost with its pod")
    found = await space.get("persistentvolumeclaims", claim["claimName"], doing)
    volume = ((found or {}).get("spec") or {}).get("volumeName")
    if not volume:
        raise RuntimePermanent("the volume of its profile is not there")
    bound = await space.cluster.call("GET", f"/api/v1/persistentvolumes/{volume}", doing=doing)
    required = ((bound.get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    return list(required.get("nodeSelectorTerms") or ())
