"""Changes of agents as the cluster tells them, from where the last list ended, so that nothing falls in between."""

import time
from collections import deque
from collections.abc import AsyncIterator

from kubernetes.aio.client import V1Pod

from core.errors import RuntimeRetryable
from core.runtime.base import Observation
from k8s import marks
from k8s.client import Json
from k8s.observe import gone, is_agent, observation_of
from k8s.space import Space

_DOING = "watching agents"
# The server ends a watch after this, well before whoever reads it lists again by himself.
_WATCH_SECONDS = 600
# Who lists may take that long over what he found before he watches. Servers remember changes for five minutes.
_OVERLAP_SECONDS = 60.0


class Stream:
    def __init__(self, space: Space, installation: str) -> None:
        self._space = space
        self._selector = marks.selector(installation)
        self._lists: deque[tuple[float, str]] = deque(maxlen=100)

    def listed(self, version: str) -> None:
        """Somebody has listed all pods at that version, and may watch next."""
        self._lists.append((time.monotonic(), version))

    async def watch(self) -> AsyncIterator[Observation]:
        """Each pod's observation when it has changed. Ends in `RuntimeRetryable`, then list and watch again."""
        version = self._recent()
        present: list[Json] = []
        if version is None:
            present, version = await self._space.list("pods", _DOING, selector=self._selector)
        last: dict[str, Observation] = {}
        for found in present:
            if (seen := _seen("MODIFIED", found, last)) is not None:
                yield seen
        query = {"labelSelector": self._selector}
        async for kind, found in self._space.watch("pods", version, _DOING, query=query, seconds=_WATCH_SECONDS):
            if kind != "BOOKMARK" and (seen := _seen(kind, found, last)) is not None:
                yield seen
        raise RuntimeRetryable("the cluster ended the watch; list and watch again")

    def _recent(self) -> str | None:
        """The version of the oldest list that somebody may go on from; another's younger one could skip a change."""
        since = time.monotonic() - _OVERLAP_SECONDS
        return next((version for at, version in self._lists if at >= since), None)


def _seen(kind: str, found: Json, last: dict[str, Observation]) -> Observation | None:
    pod = V1Pod.from_dict(found)
    if pod is None or pod.metadata is None or not is_agent(pod):
        return None
    name = pod.metadata.name or ""
    if kind == "DELETED":
        last.pop(name, None)
        return gone(pod)
    seen = observation_of(pod)
    if last.get(name) == seen:
        return None
    last[name] = seen
    return seen
