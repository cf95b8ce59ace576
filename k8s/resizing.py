"""Changing a running pod's limits in place: what the cluster is asked, and what its status says came of it.

Only limits change. A pod is placed by its requests, so nothing has to make room for it, and no container is restarted.
"""

from collections.abc import Mapping
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict

from core.domain.excerpts import one_line
from core.domain.sizes import Size
from core.domain.templates import MIB
from core.errors import RuntimePermanent
from core.runtime.base import Resized
from k8s.client import STRATEGIC_MERGE_PATCH
from k8s.faults import NotThere
from k8s.nodes import ended
from k8s.objects import CONTAINER, limits_of
from k8s.quantities import quantity
from k8s.space import Space

log = structlog.get_logger()
Json = Mapping[str, Any]
# The kubelet takes one to five seconds. What it cannot do it says when it comes by again, about 15 s later (seen).
_SETTLE_SECONDS = 20.0


class Progress(BaseModel):
    """Where a resize stands. `why` is set while its machine has not done it; `never` when it will not."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    done: bool = False
    never: bool = False
    why: str = ""

    @property
    def known(self) -> bool:
        return self.done or self.never or bool(self.why)


async def resize(space: Space, pod: Json, size: Size, doing: str) -> Resized:
    """Raises `RuntimePermanent` when its machine cannot do it; the pod has its earlier limits then."""
    name, before = pod["metadata"]["name"], limits(pod)
    if guaranteed(pod, before) != guaranteed(pod, size):
        raise RuntimePermanent(
            "its limits may not all become equal to its requests, or stop to be: "
            "Kubernetes never changes a running pod's quality of service"
        )
    asked = await _ask(space, name, size, doing)
    latest = progress(asked, size)

    def settled(seen: Json | None) -> bool:
        nonlocal latest
        latest = Progress(never=True, why="it has just ended") if seen is None or ended(seen) else progress(seen, size)
        return latest.known

    if not latest.done:
        await space.until(name, settled, doing, seconds=_SETTLE_SECONDS)
    if latest.never:
        log.warning("pod.not_resized", pod=name, why=latest.why)
        await _ask(space, name, before, doing)
        raise RuntimePermanent(f"its machine cannot do that: {latest.why}")
    log.info("pod.resized", pod=name, size=str(size), waits_for=latest.why)
    return Resized(before=before, waits_for="" if latest.done else latest.why or "its machine has not done it yet")


async def _ask(space: Space, name: str, size: Size, doing: str) -> Json:
    container = {"name": CONTAINER, "resources": {"limits": limits_of(size.cpu, size.memory_mib)}}
    change = {"spec": {"containers": [container]}}
    try:
        return await space.patch("pods", f"{name}/resize", change, doing, STRATEGIC_MERGE_PATCH)
    except NotThere:
        # The pod was there a moment ago; what an older cluster has not is the subresource.
        raise RuntimePermanent("it has just ended, or its cluster is older than Kubernetes 1.33") from None


def limits(pod: Json) -> Size:
    """The limits a pod has, or is to have while its machine does not say. Raises `RuntimePermanent` for one without.

    What it is to have may be an order of ours that its machine has refused, and that nobody took back.
    """
    actual = (_status(pod.get("status") or {}).get("resources") or {}).get("limits")
    found = actual or (_container(pod).get("resources") or {}).get("limits") or {}
    cpu, memory = quantity(found.get("cpu")), quantity(found.get("memory"))
    if not cpu or not memory:
        raise RuntimePermanent("its pod has no limits that could be changed")
    return Size(cpu=cpu, memory_mib=max(1, int(memory / MIB)))


def guaranteed(pod: Json, size: Size) -> bool:
    """Whether a pod of that size would be of the class `Guaranteed`: limits that are its requests."""
    requests = (_container(pod).get("resources") or {}).get("requests") or {}
    same = _millis(quantity(requests.get("cpu"))) == _millis(size.cpu)
    return same and quantity(requests.get("memory")) == size.memory_mib * MIB


def progress(pod: Json, size: Size) -> Progress:
    """What the kubelet says of the newest wish; what it said of an earlier one does not count."""
    status, wish = pod.get("status") or {}, pod["metadata"].get("generation") or 0
    for condition in status.get("conditions") or ():
        if condition.get("status") != "True" or (condition.get("observedGeneration") or wish) < wish:
            continue
        why = one_line(condition.get("message")) or one_line(condition.get("reason"))
        match condition.get("type"), condition.get("reason"):
            case "PodResizePending", "Infeasible":
                return Progress(never=True, why=why)
            case "PodResizePending", _:
                return Progress(why=f"its machine puts it off: {why}")
            case "PodResizeInProgress", "Error":
                return Progress(why=f"its machine has not managed it yet: {why}")
            case "PodResizeInProgress", _:
                return Progress()
            case _:
                pass  # of the pod's other conditions none tells of a resize
    actual = (_status(status).get("resources") or {}).get("limits") or {}
    same = _millis(quantity(actual.get("cpu"))) == _millis(size.cpu)
    return Progress(done=same and _mib(actual) == size.memory_mib)


def _millis(cores: float) -> int:
    """What Kubernetes counts in; 0.35 and 350 times 0.001 are the same to it, and not to a computer."""
    return round(cores * 1000)


def _mib(found: Json) -> float:
    return quantity(found.get("memory")) / MIB


def _container(pod: Json) -> Json:
    made = (pod.get("spec") or {}).get("containers") or ()
    return next((each for each in made if each.get("name") == CONTAINER), {})


def _status(status: Json) -> Json:
    told = status.get("containerStatuses") or ()
    return next((each for each in told if each.get("name") == CONTAINER), {})
