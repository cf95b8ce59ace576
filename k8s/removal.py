"""Taking an attempt away: told to go, waited for, forced where nobody is left to answer, and all of it gone."""

import asyncio
import math
from datetime import UTC, datetime

import structlog

from core.errors import RuntimeRetryable
from k8s.client import Json
from k8s.faults import NotThere
from k8s.hosts import patience, silence
from k8s.marks import is_anothers
from k8s.names import attempt_name
from k8s.space import Space

log = structlog.get_logger()
_KINDS = ("services", "pods", "secrets")
# Beyond the grace: the kubelet kills, unmounts and reports (about a second; half a minute when it is very busy).
_SILENT_SECONDS = 5.0
_GONE_SECONDS = 30.0
_FORCE_SECONDS = 5.0


async def remove(space: Space, installation: str, agent_id: str, attempt: int, grace_seconds: float) -> None:
    """Return when the cluster says that the pod is gone, and Service and Secret with it. All gone already is success.

    What bears the name and is not of `installation` stays. The Secret goes last: while it is there, the attempt is
    listed, and whoever comes after us can finish. Raises `RuntimeRetryable` when the pod does not end: also for a
    second, more impatient removal, as a kubelet need not shorten a long grace (300 s it did not, seen with 1.34).
    """
    name = attempt_name(agent_id, attempt)
    doing = f"removing agent {agent_id} (attempt {attempt})"
    ours = await _ours(space, installation, name, doing)
    if "services" in ours:
        await space.delete("services", name, doing)
    # Zero would take the pod off the books at once, while its processes may still write to the profile.
    if "pods" in ours and await space.delete("pods", name, doing, grace_seconds=max(1, math.ceil(grace_seconds))):
        await _see_it_go(space, name, doing, grace_seconds)
    if "secrets" in ours:
        await space.delete("secrets", name, doing)


async def _ours(space: Space, installation: str, name: str, doing: str) -> set[str]:
    """The kinds of which there is one of that name that we may take away."""
    found = await asyncio.gather(*(space.get(kind, name, doing, metadata=True) for kind in _KINDS))
    there = {kind: each for kind, each in zip(_KINDS, found, strict=True) if each is not None}
    ours = {kind for kind, each in there.items() if not is_anothers(each, installation)}
    for kind in there.keys() - ours:
        log.warning("foreign.left_alone", kind=kind, name=name)
    return ours


async def _see_it_go(space: Space, name: str, doing: str, grace_seconds: float) -> None:
    if await space.until(name, _gone, doing, seconds=grace_seconds + _SILENT_SECONDS):
        return
    if await _host_is_lost(space, name, doing):
        # Nobody will ever confirm its end. What it wrote to is either lost with the node or detached by the cluster.
        log.warning("pod.forced", pod=name)
        await space.delete("pods", name, doing, grace_seconds=0)
        if await space.until(name, _gone, doing, seconds=_FORCE_SECONDS):
            return
    elif await space.until(name, _gone, doing, seconds=_GONE_SECONDS - _SILENT_SECONDS):
        return
    raise RuntimeRetryable(f"{doing}: its pod does not end")


def _gone(pod: Json | None) -> bool:
    return pod is None


async def _host_is_lost(space: Space, name: str, doing: str) -> bool:
    """Whether the node a pod is on has gone, or has been silent for so long that the cluster knows nothing of it.

    One that calls itself not ready still ends its pods, and says so: until then somebody may write to the profile.
    """
    pod = await space.get("pods", name, doing)
    node_name = ((pod or {}).get("spec") or {}).get("nodeName")
    if not node_name:
        return False
    try:
        node = await space.cluster.call("GET", f"/api/v1/nodes/{node_name}", doing=doing)
    except NotThere:
        return True
    return silence(node, longer_than=patience(space.cluster.calm_seconds), now=datetime.now(UTC)) is not None
