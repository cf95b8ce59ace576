"""What happens to all agents of a cluster, seen by one list and watch that everyone here shares."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Set
from dataclasses import dataclass

import structlog
from kubernetes.aio.client import V1Pod

from core.errors import RuntimeFault
from core.runtime.base import Observation, Phase
from core.runtime.changes import Changes
from k8s import marks
from k8s.client import Cluster, Json
from k8s.diagnose import diagnose, lost_with, wants_events
from k8s.events import events_of
from k8s.hosts import SILENCE_SECONDS, Hosts, patience
from k8s.mirror import Mirror, Pace
from k8s.observe import observed, pod_of

log = structlog.get_logger()
_MAX_LISTED = 20_000
_QUESTIONS_AT_ONCE = 4
# Most pods that are being made are well: only one that takes long is asked about, and then every so often.
_FIRST_QUESTION_SECONDS = 3.0
_NEXT_QUESTION_SECONDS = 10.0


@dataclass(slots=True)
class _Seen:
    """One pod: what its own status says, and what was last told of it."""

    own: Observation
    node: str
    leaving: bool
    told: Observation | None = None


class PodWatcher:
    """Tells what changed of each agent: once for each change, and also when it happened while nobody could look."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        installation: str,
        *,
        pace: Pace | None = None,
        silence_seconds: float = SILENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._clock = clock
        self._changes = Changes(clock)
        self._seen: dict[str, _Seen] = {}
        # What a list told of and the mirror has not seen, by uid; until it does, or a list of its own says it is gone.
        self._listed: dict[str, tuple[float, Observation]] = {}
        self._questions: dict[str, asyncio.Task[None]] = {}
        self._asking = asyncio.Semaphore(_QUESTIONS_AT_ONCE)
        self._hosts = Hosts(self._host_changed, lambda: patience(cluster.calm_seconds, silence_seconds))
        self.pods = Mirror(
            cluster,
            f"/api/v1/namespaces/{namespace}/pods",
            self,
            doing="watch agents",
            query={"labelSelector": marks.selector(installation)},
            pace=pace,
            clock=clock,
        )
        self.nodes = Mirror(cluster, "/api/v1/nodes", self._hosts, doing="watch nodes", pace=pace, clock=clock)
        self._running: list[asyncio.Task[None]] = []

    @property
    def age_seconds(self) -> float | None:
        """How old what is known may be at most; None while nothing is watched."""
        return self.pods.age_seconds if self._running else None

    def watch(self) -> AsyncIterator[Observation]:
        """From now on, and what was told within the last seconds. The first call begins the stream."""
        subscription = self._changes.subscribe()
        if not self._running:
            for name, mirror in (("pods", self.pods), ("nodes", self.nodes)):
                task = asyncio.create_task(mirror.run(), name=f"mirror {name}")
                task.add_done_callback(self._ended)
                self._running.append(task)
        return subscription

    def now(self) -> float:
        """The present, for `listed`."""
        return self._clock()

    def listed(self, observation: Observation, at: float) -> None:
        """Somebody was told of this pod by a list: if it goes before the stream sees it, that will be told as well.

        The list is of the moment `at`, or of one before it.
        """
        uid = str(observation.handle.native["uid"]) if observation.handle else ""
        if uid not in self._seen and len(self._listed) < _MAX_LISTED:
            self._listed[uid] = (at, observation)

    async def close(self) -> None:
        tasks = [*self._running, *self._questions.values()]
        self._running, self._questions = [], {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._hosts.close()
        self._changes.close()

    # ---- what the mirror of the pods tells --------------------------------------------------------------------------

    def put(self, thing: Json) -> None:
        if marks.of(thing) is None:
            return
        pod = pod_of(thing)
        meta, uid = thing["metadata"], thing["metadata"]["uid"]
        own = observed(pod, diagnose(pod))
        before = self._seen.get(uid)
        now = _Seen(
            own,
            node=(thing.get("spec") or {}).get("nodeName") or "",
            leaving=bool(meta.get("deletionTimestamp")),
            told=before.told if before else None,
        )
        self._seen[uid] = now
        self._listed.pop(uid, None)
        if question := self._questions.pop(uid, None):
            question.cancel()
        if wants_events(pod):
            if before is None or own != before.own or question is not None:
                self._questions[uid] = asyncio.create_task(self._ask(uid, pod), name=f"events of {meta['name']}")
            if own.phase is Phase.EXITED and own.exit_code is not None:
                return  # told with its reason, or without when nothing is to be had
        self._tell(now)

    def drop(self, thing: Json) -> None:
        self._gone(thing["metadata"]["uid"])

    def keep(self, uids: Set[str]) -> None:
        for uid in self._seen.keys() - uids:
            self._gone(uid)
        there = {(seen.own.agent_id, seen.own.attempt) for seen in self._seen.values()}
        for uid, (at, listed) in list(self._listed.items()):
            if at > self.pods.listing_since:
                continue  # it may have come after the list that was just made
            del self._listed[uid]
            if (listed.agent_id, listed.attempt) not in there:
                self._publish(_gone(listed))

    # ---- what becomes of it -----------------------------------------------------------------------------------------

    def _host_changed(self, node: str) -> None:
        for uid, seen in self._seen.items():
            if seen.node == node and uid not in self._questions:
                self._tell(seen)

    def _tell(self, seen: _Seen) -> None:
        """Say how it is, if that is news. What we ordered to go, and went, will be told when it is gone."""
        now = seen.own
        trouble = self._hosts.trouble(seen.node)
        if trouble is not None and now.phase is not Phase.EXITED and not seen.leaving:
            lost = lost_with(seen.node, trouble)
            now = now.model_copy(update={"phase": lost.phase, "failure": lost.failure, "detail": lost.detail})
        if now == seen.told:
            return
        seen.told = now
        if not (seen.leaving and now.phase is Phase.EXITED and now.failure is None):
            self._publish(now)

    def _gone(self, uid: str) -> None:
        if question := self._questions.pop(uid, None):
            question.cancel()
        if seen := self._seen.pop(uid, None):
            self._publish(_gone(seen.own))

    def _publish(self, observation: Observation) -> None:
        log.debug("pod.changed", agent_id=observation.agent_id, phase=observation.phase, failure=observation.failure)
        self._changes.publish(observation)

    async def _ask(self, uid: str, pod: V1Pod) -> None:
        """Ask what happened to a pod until its status changes; one that ended is asked about once, at once."""
        seen = self._seen[uid]
        over = seen.own.phase is Phase.EXITED
        pause = 0.0 if over else _FIRST_QUESTION_SECONDS
        try:
            while True:
                await asyncio.sleep(pause)
                pause = _NEXT_QUESTION_SECONDS
                try:
                    async with self._asking:
                        name = (pod.metadata and pod.metadata.name) or ""
                        events = await events_of(self._cluster, self._namespace, name, uid)
                    seen.own = observed(pod, diagnose(pod, events))
                except RuntimeFault as error:
                    log.info("events.not_read", agent_id=seen.own.agent_id, why=error.detail)
                if self._seen.get(uid) is seen:
                    self._tell(seen)
                if over or seen.own.phase is Phase.EXITED:
                    return
        finally:
            # Also when it failed: a question that nobody asks any more must not silence its pod.
            if self._questions.get(uid) is asyncio.current_task():
                del self._questions[uid]

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A mirror never ends by itself: its watchers must hear of it, and begin anew."""
        if task.cancelled() or task not in self._running:
            return
        log.error("mirror.ended", part=task.get_name(), exc_info=task.exception())
        self._running.remove(task)
        for other in self._running:
            other.cancel()
        self._running = []
        self._changes.close()
        self._changes = Changes(self._clock)


def _gone(seen: Observation) -> Observation:
    return seen.model_copy(update={"phase": Phase.GONE, "exit_code": None, "failure": None, "detail": ""})
