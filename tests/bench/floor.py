"""The cluster's own floor: bare pods of the same image and probes as ours, seen ready and gone by a watch."""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from pydantic import SecretStr

from core.domain.templates import Template
from core.domain.timings import Timings
from core.errors import RuntimeFault
from core.runtime.base import AgentSpec
from k8s import objects
from k8s.client import Cluster
from k8s.space import Space
from tests.fixtures.stack import eventually

_DOING = "measuring"
_PATIENCE = 240
_WATCH_SECONDS = 3_600
_AGAIN_SECONDS = 0.1
_numbers = count(1)


class Sight:
    """When each pod of a namespace was first seen, seen ready, and seen to be gone, in seconds of the wall clock.

    A server under load ends watches: the next one begins with all that are there, and those that are not are gone.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._seen: dict[str, dict[str, float]] = defaultdict(dict)
        self._news = asyncio.Condition()

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._watch()
            except RuntimeFault as fault:
                sys.stderr.write(f"a watch of {self._space.path} ended: {fault}\n")
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _watch(self) -> None:
        pods, version = await self._space.list("pods", _DOING)
        left = {name for name, seen in self._seen.items() if "gone" not in seen}
        for pod in pods:
            await self._see("LISTED", pod)
        for name in left - {pod["metadata"]["name"] for pod in pods}:
            await self._see("DELETED", {"metadata": {"name": name}})
        query = {"resourceVersion": version}
        async for kind, pod in self._space.cluster.watch(
            f"{self._space.path}/pods", doing=_DOING, query=query, seconds=_WATCH_SECONDS, silence=_WATCH_SECONDS
        ):
            if kind != "BOOKMARK":
                await self._see(kind, pod)

    async def _see(self, kind: str, pod: dict[str, Any]) -> None:
        now, seen = time.time(), self._seen[pod["metadata"]["name"]]
        seen.setdefault("there", now)
        if kind == "DELETED":
            seen["gone"] = now
        elif _is_ready(pod):
            seen.setdefault("ready", now)
        async with self._news:
            self._news.notify_all()

    async def when(self, pod: str, what: str) -> float:
        """Wait until it was `ready` or `gone`; when that was."""
        await self._until(lambda: what in self._seen[pod], f"{pod} to be {what}")
        return self._seen[pod][what]

    @property
    def ready_so_far(self) -> int:
        return sum("ready" in seen for seen in self._seen.values())

    async def ready_count(self, wanted: int) -> None:
        await self._until(lambda: self.ready_so_far >= wanted, f"{wanted} pods to be ready")

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE), self._news:
                await self._news.wait_for(holds)
        except TimeoutError:
            raise AssertionError(f"waited {_PATIENCE} s for {what}") from None


class Floor:
    """Bare pods in a namespace of their own."""

    def __init__(self, space: Space, sight: Sight) -> None:
        self._space = space
        self.sight = sight

    async def up(self, template: Template, count: int = 1) -> tuple[list[str], float]:
        """Make so many at once; their names, and the seconds until the last one was ready."""
        manifests = [bare_pod(template) for _ in range(count)]
        began = time.time()
        await asyncio.gather(*(self._space.create("pods", each, _DOING) for each in manifests))
        names = [str(each["metadata"]["name"]) for each in manifests]
        ready = await asyncio.gather(*(self.sight.when(name, "ready") for name in names))
        return names, max(ready) - began

    async def down(self, names: list[str], grace_seconds: int) -> float:
        """Delete them at once; the seconds until the last one was gone."""
        began = time.time()
        await asyncio.gather(*(self._space.delete("pods", each, _DOING, grace_seconds=grace_seconds) for each in names))
        return max(await asyncio.gather(*(self.sight.when(name, "gone") for name in names))) - began


def spec_of(template: Template, number: int) -> AgentSpec:
    return AgentSpec(
        agent_id=f"ag-bare-{number}",
        attempt=1,
        user_id=f"bare-{number}",
        project_id=f"bare-{number}",
        pool="default",
        template=template,
        backend_url="http://127.0.0.1:9",
        token=SecretStr("bare"),
    )


def bare_pod(template: Template, installation: str = "bench-floor") -> dict[str, Any]:
    """The pod that we would make, without the Secret that owns it."""
    nobody = {"kind": "Secret", "metadata": {"name": "nobody", "uid": "nobody"}}
    pod = objects.pod(spec_of(template, next(_numbers)), installation, nobody, Timings())
    del pod["metadata"]["ownerReferences"]
    container = pod["spec"]["containers"][0]
    container["env"] = [
        {"name": each["name"], "value": "bare"} if "valueFrom" in each else each for each in container["env"]
    ]
    return pod


@asynccontextmanager
async def watched(cluster: Cluster, namespace: str) -> AsyncIterator[tuple[Space, Sight]]:
    """A new namespace as strict as that of agents, and sight of its pods."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made = {"metadata": {"name": namespace, "labels": labels}}
    await cluster.call("POST", "/api/v1/namespaces", doing=_DOING, body=made)
    space = Space(cluster, namespace)

    async def usable() -> bool:
        return await space.get("serviceaccounts", "default", _DOING) is not None

    # Its controllers make this a moment later, and pods are refused before.
    await eventually(usable, f"the namespace {namespace}")
    sight = Sight(space)
    watching = asyncio.create_task(sight.watch())
    try:
        yield space, sight
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
