"""What agents wrote, read from their pods' logs."""

from collections.abc import AsyncIterator

from core.errors import RuntimeFault, RuntimePermanent
from k8s import marks
from k8s.client import Json
from k8s.faults import NotThere
from k8s.space import Space

# An agent may say nothing for long, but a dead connection must not be silence for ever.
_SILENCE_SECONDS = 3600.0
_START_SECONDS = 600.0


async def logs(space: Space, installation: str, agent_id: str, *, follow: bool) -> AsyncIterator[bytes]:
    """All attempts whose pods are there, oldest first, each under a line that names it."""
    doing = f"reading the log of agent {agent_id}"
    found = await space.list("pods", doing, selector=marks.selector(installation, agent_id=agent_id))
    attempts = [(mark.attempt, pod) for pod in found.items if (mark := marks.of(pod)) and mark.agent_id == agent_id]
    for attempt, pod in sorted(attempts, key=lambda pair: pair[0]):
        name = pod["metadata"]["name"]
        yield f"{pod['metadata'].get('creationTimestamp')} attempt {attempt} in pod {name}\n".encode()
        if follow and not _has_begun(pod):
            await space.until(name, _has_begun, doing, seconds=_START_SECONDS)
        async for chunk in _of_pod(space, name, doing, follow=follow):
            yield chunk


async def _of_pod(space: Space, name: str, doing: str, *, follow: bool) -> AsyncIterator[bytes]:
    path = f"{space.path}/pods/{name}/log"
    query: dict[str, str | bool] = {"container": "agent", "follow": follow}
    try:
        async with space.cluster.stream(path, doing=doing, query=query, silence=_SILENCE_SECONDS) as answer:
            async for chunk in answer.content.iter_any():
                yield chunk
    except (NotThere, RuntimePermanent):
        return  # it has gone, or has not begun: there is nothing to read
    except RuntimeFault:
        # Whoever follows it to its end sees the node close the log, rudely at times.
        if follow and await space.get("pods", name, doing) is None:
            return
        raise


def _has_begun(pod: Json | None) -> bool:
    """Its container has a log, or will never have one."""
    if pod is None:
        return True
    status = pod.get("status") or {}
    states = [each.get("state") or {} for each in status.get("containerStatuses") or ()]
    return status.get("phase") in {"Succeeded", "Failed"} or any("running" in s or "terminated" in s for s in states)
