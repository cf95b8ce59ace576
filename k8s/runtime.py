"""Runtime `kubernetes`: an agent is a bare pod with a Secret and a Service, in one namespace of one cluster.

Nothing but caches is kept between calls, so any number of processes may use the same cluster.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from kubernetes.aio.client import CoreV1Event

from core.domain.recovery import FailureKind
from core.domain.sizes import Size
from core.domain.templates import Template
from core.errors import RuntimePermanent
from core.runtime.base import (
    AgentRuntime,
    AgentSpec,
    ClusterCapacity,
    Created,
    Handle,
    Observation,
    Phase,
    Present,
    Reach,
    Resized,
    Usage,
)
from core.settings import Settings
from k8s import marks
from k8s.client import Cluster, Json
from k8s.creation import Creation
from k8s.diagnose import wants_events
from k8s.events import events_of
from k8s.lease import Lease, unique
from k8s.logs import logs
from k8s.marks import Marks
from k8s.moving import require_other, volume_terms
from k8s.names import attempt_name, watch_lease
from k8s.nodes import ended
from k8s.observe import RUNTIME, observation_of, pod_of
from k8s.profiles import Profiles
from k8s.reach import Ways, token_of
from k8s.relay import Relay
from k8s.removal import remove
from k8s.resizing import resize
from k8s.room import Room
from k8s.space import Space
from k8s.watcher import PodWatcher

# A Secret without a pod is an attempt under way, or one whose pod somebody has deleted.
_UNDER_WAY = timedelta(seconds=30)
# After that many pods others get their turn: reading one takes about a millisecond.
_BATCH = 20


def open_runtime(name: str, settings: Settings) -> AgentRuntime:
    """The cluster of the settings; connects when it is first used."""
    return KubernetesRuntime(settings)


class KubernetesRuntime:
    """Guarantees of `AgentRuntime` and `SharedRuntime`. While no cluster answers, methods raise `RuntimeRetryable`."""

    name = RUNTIME

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._installation = settings.kubernetes.installation
        self._cluster = Cluster(settings.kubernetes)
        self._space = Space(self._cluster, settings.kubernetes.namespace)
        self._profiles = Profiles(self._space, self._installation)
        self._room = Room(self._space, settings)
        self._watcher = PodWatcher(self._cluster, settings.kubernetes.namespace, self._installation)
        self._relay = Relay(self._cluster, settings.kubernetes.namespace)
        self._ways = Ways(settings.kubernetes.reach, self._relay)

    async def create(self, spec: AgentSpec) -> Created:
        await self._room.check(spec.template)
        timings = spec.template.timings or self._settings.timings
        return await Creation(self._space, self._profiles, self._installation, spec, timings).run()

    async def observe(self, agent_id: str, attempt: int) -> Observation:
        name, doing = attempt_name(agent_id, attempt), f"looking at agent {agent_id} (attempt {attempt})"
        found = await self._space.get("pods", name, doing)
        if found is not None and self._is_ours(found):
            pod = pod_of(found)
            return observation_of(pod, await self._events(name, found) if wants_events(pod) else ())
        secret = await self._space.get("secrets", name, doing, metadata=True)
        mark = marks.of(secret) if secret is not None and self._is_ours(secret) else None
        if secret is None or mark is None:
            return Observation(agent_id=agent_id, attempt=attempt, phase=Phase.GONE)
        return _without_pod(secret, mark)

    async def delete(self, agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        await remove(self._space, self._installation, agent_id, attempt, grace_seconds)
        return Usage()

    async def check(self, template: Template) -> None:
        await self._room.check(template)

    async def resize(self, agent_id: str, attempt: int, size: Size) -> Resized:
        doing = f"resizing agent {agent_id} (attempt {attempt})"
        pod = await self._living(agent_id, attempt, doing)
        await self._room.check_size(size)
        return await resize(self._space, pod, size, doing)

    async def elsewhere(self, agent_id: str, attempt: int, template: Template) -> str:
        doing = f"looking for another machine for agent {agent_id} (attempt {attempt})"
        pod = await self._living(agent_id, attempt, doing)
        at = str(pod["spec"].get("nodeName") or "")
        if not at:
            raise RuntimePermanent("it has not been given a machine yet")
        terms, nodes = await asyncio.gather(volume_terms(self._space, pod, doing), self._room.now(template))
        require_other(nodes, at, template, terms)
        return at

    async def _living(self, agent_id: str, attempt: int, doing: str) -> Json:
        pod = await self._space.get("pods", attempt_name(agent_id, attempt), doing)
        if pod is None or ended(pod) or not self._is_ours(pod) or pod["metadata"].get("deletionTimestamp"):
            raise RuntimePermanent(f"agent {agent_id} (attempt {attempt}) does not run here")
        return pod

    async def list(self) -> list[Observation]:
        """Also attempts that have only their Secret, so that what was half made or half removed is found."""
        doing, selector = "listing agents", marks.selector(self._installation)
        found: dict[str, Observation] = {}
        # Secrets first: a pod that comes in between has one, and is among the pods.
        async for page in self._space.pages("secrets", doing, selector=selector, metadata=True):
            for each in page.items:
                mark = marks.of(each)
                if mark is not None:
                    found[each["metadata"]["name"]] = _without_pod(each, mark)
        moment: float | None = None
        async for page in self._space.pages("pods", doing, selector=selector):
            # All pages are of the moment of the first.
            moment = self._watcher.now() if moment is None else moment
            for number, each in enumerate(page.items):
                if marks.of(each) is not None:
                    seen = observation_of(pod_of(each))
                    found[each["metadata"]["name"]] = seen
                    self._watcher.listed(seen, moment)
                if number % _BATCH == _BATCH - 1:
                    await asyncio.sleep(0)
        return [*found.values()]

    async def present(self) -> Sequence[Present]:
        """By metadata alone: reading how thousands of pods are costs seconds."""
        doing, selector = "counting agents", marks.selector(self._installation)
        found: dict[str, Present] = {}
        for kind in ("secrets", "pods"):
            async for page in self._space.pages(kind, doing, selector=selector, metadata=True):
                for each in page.items:
                    mark = marks.of(each)
                    if mark is not None:
                        found[each["metadata"]["name"]] = Present(
                            agent_id=mark.agent_id,
                            attempt=mark.attempt,
                            created_at=_made_at(each),
                            user_id=mark.user_id,
                        )
        return [*found.values()]

    async def capacity(self, wanted: Mapping[str, Template] | None = None) -> ClusterCapacity:
        return await self._room.capacity(wanted)

    def watch(self) -> AsyncIterator[Observation]:
        return self._watcher.watch()

    async def reach(self, agent_id: str, attempt: int) -> Reach:
        name, doing = attempt_name(agent_id, attempt), f"reaching agent {agent_id} (attempt {attempt})"
        pod, secret = await asyncio.gather(
            self._space.get("pods", name, doing), self._space.get("secrets", name, doing)
        )
        if pod is None or secret is None or ended(pod) or not self._is_ours(pod):
            raise RuntimePermanent(f"agent {agent_id} (attempt {attempt}) does not run here")
        return await self._ways.to(pod, token_of(secret))

    def logs(self, agent_id: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        return logs(self._space, self._installation, agent_id, follow=follow)

    async def delete_profile(self, user_id: str, project_id: str) -> None:
        await self._profiles.forget(user_id, project_id)

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Of all that watch this installation's agents, one does the work; its Lease is in the agents' namespace."""
        await Lease(self._cluster, self._space.namespace, watch_lease(self._installation), unique()).lead(work)

    def watch_age(self) -> float | None:
        return self._watcher.age_seconds

    async def close(self) -> None:
        await self._watcher.close()
        await self._relay.close()
        await self._cluster.close()

    def _is_ours(self, found: Json) -> bool:
        return marks.is_of(found, self._installation)

    async def _events(self, name: str, pod: Json) -> Sequence[CoreV1Event]:
        return await events_of(self._cluster, self._space.namespace, name, pod["metadata"]["uid"])


def _without_pod(secret: Json, mark: Marks) -> Observation:
    made = _made_at(secret)
    lost = datetime.now(UTC) - made > _UNDER_WAY
    return Observation(
        agent_id=mark.agent_id,
        attempt=mark.attempt,
        phase=Phase.EXITED if lost else Phase.STARTING,
        failure=FailureKind.RUNTIME_GONE if lost else None,
        detail="its pod was deleted" if lost else "",
        created_at=made,
        user_id=mark.user_id,
        project_id=mark.project_id,
        handle=Handle(runtime=RUNTIME, agent_id=mark.agent_id, attempt=mark.attempt),
    )


def _made_at(thing: Json) -> datetime:
    return datetime.fromisoformat(thing["metadata"]["creationTimestamp"])
