"""What Berth must be allowed to do in a cluster, and which of it these access data may not."""

import asyncio

from pydantic import BaseModel, ConfigDict

from core.settings import Kubernetes, ReachBy
from k8s.client import Cluster, Json

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_DOING = "asking for our rights"


class Right(BaseModel):
    """One verb on one kind of object; `namespaced` ones in the agents' namespace alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    verb: str
    resource: str
    group: str = ""
    namespaced: bool = True

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


def _rights(resource: str, verbs: str, group: str = "", *, namespaced: bool = True) -> list[Right]:
    return [Right(verb=verb, resource=resource, group=group, namespaced=namespaced) for verb in verbs.split()]


# All parts together; the manifests give each of them its share.
NEEDED = (
    *_rights("pods", "create get list watch delete"),
    *_rights("pods/log", "get"),
    *_rights("pods/resize", "patch"),
    *_rights("secrets", "create get list delete"),
    *_rights("services", "create get delete"),
    *_rights("persistentvolumeclaims", "create get delete"),
    *_rights("events", "list"),
    *_rights("leases", "create get update", "coordination.k8s.io"),
    *_rights("nodes", "get list watch", namespaced=False),
    *_rights("persistentvolumes", "get", namespaced=False),
)
_BY_PROXY = tuple(_rights("pods/proxy", "get create"))
# What Berth does without where it must, each with what it then does not count.
SIGHT = {
    Right(verb="list", resource="pods", namespaced=False): "other namespaces' pods",
    Right(verb="list", resource="resourcequotas"): "the namespace's quota",
    Right(verb="list", resource="nodes", group="metrics.k8s.io", namespaced=False): "use of the nodes",
}


async def missing(cluster: Cluster, settings: Kubernetes) -> list[Right]:
    """The needed rights that the API server says we have not. Raises as `Cluster.call` does."""
    return await _lacking(cluster, settings, [*NEEDED, *(_BY_PROXY if settings.reach is ReachBy.PROXY else ())])


async def unseen(cluster: Cluster, settings: Kubernetes) -> list[str]:
    """What cannot be counted with these rights, so that more agents may be let in than there is room for."""
    return [SIGHT[right] for right in await _lacking(cluster, settings, [*SIGHT])]


async def _lacking(cluster: Cluster, settings: Kubernetes, wanted: list[Right]) -> list[Right]:
    allowed = await asyncio.gather(*(_allowed(cluster, settings.namespace, right) for right in wanted))
    return [right for right, may in zip(wanted, allowed, strict=True) if not may]


async def _allowed(cluster: Cluster, namespace: str, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    asked = {"verb": right.verb, "group": right.group, "resource": resource}
    if subresource:
        asked["subresource"] = subresource
    if right.namespaced:
        asked["namespace"] = namespace
    body: Json = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = await cluster.call("POST", _REVIEWS, doing=_DOING, body=body)
    return bool((answer.get("status") or {}).get("allowed"))
