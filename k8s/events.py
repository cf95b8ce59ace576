"""What a cluster tells of one pod beside its status."""

from kubernetes.aio.client import CoreV1Event

from k8s.client import Cluster, Json

_MOST = 100
_SECONDS = 3.0


async def events_of(cluster: Cluster, namespace: str, name: str, uid: str) -> list[CoreV1Event]:
    """The pod's events, oldest first; a short look, as they only add words. Raises as `Cluster.call`."""
    answer = await cluster.call(
        "GET",
        f"/api/v1/namespaces/{namespace}/events",
        doing="read what happened to an agent's pod",
        query={"fieldSelector": f"involvedObject.name={name},involvedObject.uid={uid}", "limit": _MOST},
        seconds=_SECONDS,
    )
    return events_from(answer.get("items") or [])


def events_from(items: list[Json]) -> list[CoreV1Event]:
    """Of events as JSON only what a diagnosis reads, oldest first."""
    made = []
    for item in sorted(items, key=_when):
        event = CoreV1Event.from_dict(
            {"metadata": {}, "involvedObject": {}, "reason": item.get("reason"), "message": item.get("message")}
        )
        if event is not None:
            made.append(event)
    return made


def _when(item: Json) -> str:
    # All are RFC 3339 in UTC; with and without fractions they still sort by second.
    series = item.get("series") or {}
    found = item.get("lastTimestamp") or series.get("lastObservedTime") or item.get("eventTime")
    return str(found or item["metadata"].get("creationTimestamp") or "")
