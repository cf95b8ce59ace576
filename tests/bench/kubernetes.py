"""Speed of agents as pods beside the cluster's own floor, which is measured in the same run and in turns with them."""

import asyncio
import json
import os
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temporalio.client import Client

from core.domain.placement import KubernetesTemplate, ReadyBy
from core.domain.templates import Resources, Template
from core.ids import agent_workflow_id
from core.settings import Kubernetes
from k8s.client import Cluster as Connection
from k8s.cluster.cluster import Cluster, running
from k8s.images.load import Containerd
from k8s.images.store import AGENT, TINY
from k8s.images.workshop import Workshop
from k8s.names import attempt_name
from tests.bench.crowded import watcher_memory
from tests.bench.figures import Figures
from tests.bench.floor import Floor, watched
from tests.bench.load import Board, Crowd, cpu_seconds, crowd_of, percentile
from tests.bench.traces import AuditLog, signalled
from tests.fixtures.cluster import cluster_folder
from tests.fixtures.stack import local_stack

# All of it; what hangs is to be seen, not waited for.
_LIMIT_SECONDS = 1_500
_USERS = 64
# What Berth gives an agent that it cannot tell over a channel to go.
_GRACE_SECONDS = 10
_SMALL = Resources(cpu=0.01, memory_mib=16, cpu_limit=1, memory_limit_mib=64)
_TINY = Template(image=TINY, resources=_SMALL, kubernetes=KubernetesTemplate(ready_by=ReadyBy.PROBE))
# The same in a pool of its own, which lets so many start at once.
_GENTLE, _MOST_STARTING = "gentle", 20
_TEMPLATES = {"default": _TINY, _GENTLE: _TINY, "browser": Template(image=AGENT)}


@dataclass
class Times:
    """Seconds of one life after another, and of bare pods in turn with them."""

    bare_up: list[float] = field(default_factory=list)
    bare_down: list[float] = field(default_factory=list)
    usable: list[float] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    called: list[float] = field(default_factory=list)
    made: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)


class KubernetesBench:
    def __init__(self, figures: Figures, quick: bool) -> None:
        self.note = figures.note
        self._quick = quick

    async def run(self, scratch: Path) -> None:
        async with asyncio.timeout(_LIMIT_SECONDS):
            with running(cluster_folder()) as cluster:
                for name in (TINY, AGENT):
                    for socket in cluster.containerd_sockets:
                        Workshop().build(name).load(Containerd(socket))
                async with AsyncExitStack() as opened:
                    await self._measure(cluster, scratch, opened)

    async def _measure(self, cluster: Cluster, scratch: Path, opened: AsyncExitStack) -> None:
        connection = Connection(Kubernetes(kubeconfig=cluster.kubeconfig))
        opened.push_async_callback(connection.close)
        bare, bare_sight = await opened.enter_async_context(watched(connection, "floor"))
        agents, self._sight = await opened.enter_async_context(watched(connection, "agents"))
        self._floor = Floor(bare, bare_sight)
        self._audit = AuditLog(cluster.audit_log)
        stack = await opened.enter_async_context(_stack(cluster, scratch))
        self._temporal = await Client.connect(str(stack.about["temporal"]))
        crowd = await crowd_of(stack, _USERS)
        opened.push_async_callback(crowd.http.aclose)
        self.note("load of the machine at the start", f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        await self._lives(crowd, "tiny image", "default", 3 if self._quick else 9, allowed=0.3)
        await self._lives(crowd, "agent image", "browser", 2 if self._quick else 5, allowed=2.0)
        for count, most in ((20, 1.3), (60, 1.2)):
            await self._at_once(crowd, count, most, turns=1 if self._quick else 3, gently=count > _MOST_STARTING)
        await watcher_memory(self.note, connection, cluster, agents, self._sight, stack, 500 if self._quick else 2_000)
        self.note("load of the machine at the end", f"{os.getloadavg()[0]:.1f}")

    async def _lives(self, crowd: Crowd, what: str, template: str, turns: int, allowed: float) -> None:
        """One after another, in turns with the floor; the first of each only warms the node."""
        crowd.template = template
        times = Times()
        for number in range(turns + 1):
            await self._turn(crowd, number, times, probed=template == "default")
        bare, ours = _middle(times.bare_up), _middle(times.usable)
        self.note(f"{what}: bare pod to Ready, p50", f"{bare:.2f} s")
        self._beside(f"{what}: request to usable, p50", ours, bare, allowed)
        bare, ours = _middle(times.bare_down), _middle(times.gone)
        self.note(f"{what}: bare pod's delete to gone, p50", f"{bare:.2f} s")
        self._beside(f"{what}: stop to gone, p50", ours, bare, 0.5)
        middle = _middle(times.ended)
        self.note(f"{what}: stop without grace to ended, p50", f"{middle:.2f} s", "<= 5 s", middle <= 5)
        secret, pod = _middle(times.called) * 1000, _middle(times.made) * 1000
        self.note(f"{what}: POST to the first create call, p50", f"{secret:.0f} ms")
        self.note(f"{what}: POST to the pod's create call, p50", f"{pod:.0f} ms", "<= 120 ms", pod <= 120)
        if times.told:
            told = _middle(times.told) * 1000
            self.note("watcher: event to signal, p50", f"{told:.0f} ms", "<= 30 ms", told <= 30)

    async def _turn(self, crowd: Crowd, number: int, times: Times, *, probed: bool) -> None:
        names, up = await self._floor.up(_TEMPLATES[crowd.template or "default"])
        times.bare_up.append(up)
        times.bare_down.append(await self._floor.down(names, _GRACE_SECONDS))
        began = time.time()
        agent_id = await crowd.start(number)
        await crowd.reaches(number, agent_id, "running")
        times.usable.append(time.time() - began)
        pod = attempt_name(agent_id, 1)
        # A moment's rest is what a user's agent has had when it is told to go.
        ready = await self._sight.when(pod, "ready")
        if probed:
            workflow_id = agent_workflow_id(f"u{number}", f"p{number}")
            times.told.append(await signalled(self._temporal, workflow_id, "ready") - ready)
        times.called.append(self._audit.asked("create", "secrets", pod) - began)
        times.made.append(self._audit.asked("create", "pods", pod) - began)
        stopped = time.time()
        await crowd.stop(number, agent_id)
        times.gone.append(await self._sight.when(pod, "gone") - stopped)
        await crowd.reaches(number, agent_id, "terminated")
        times.ended.append(time.time() - stopped)

    async def _at_once(self, crowd: Crowd, count: int, most: float, turns: int, *, gently: bool) -> None:
        """In turns with the floor; `gently`: in turns with a pool that lets only some start at once, too."""
        bare: list[float] = []
        ours: list[float] = []
        gentle: list[float] = []
        used: dict[str, float] = {}
        for _ in range(turns):
            names, up = await self._floor.up(_TINY, count)
            bare.append(up)
            await self._floor.down(names, _GRACE_SECONDS)
            seconds, used = await self._crowd(crowd, count, "default")
            ours.append(seconds)
            if gently:
                gentle.append((await self._crowd(crowd, count, _GENTLE))[0])
        floor, all_usable = statistics.median(bare), statistics.median(ours)
        self.note(f"{count} bare pods at once, all Ready", f"{floor:.2f} s")
        ratio = all_usable / floor
        parts = ", ".join(f"{name} {value:.1f}" for name, value in used.items())
        self.note(f"{count} tiny agents at once, CPU of ours", f"{sum(used.values()):.1f} s ({parts})")
        value = f"{all_usable:.2f} s, {ratio:.2f} x the floor"
        self.note(f"{count} tiny agents at once, all usable", value, f"<= {most:.1f} x", ratio <= most)
        if gently:
            ratio = statistics.median(gentle) / all_usable
            value = f"{statistics.median(gentle):.2f} s, {ratio:.2f} x without the limit"
            what = f"the same with at most {_MOST_STARTING} starting at once, all usable"
            self.note(what, value, "<= 1.15 x", ratio <= 1.15)

    async def _crowd(self, crowd: Crowd, count: int, template: str) -> tuple[float, dict[str, float]]:
        """Start so many at once and stop them again; the seconds until all were usable, and of CPU by part."""
        crowd.template, board = template, Board(crowd)
        pids = crowd.stack.about["pids"]
        before = {name: cpu_seconds(int(pid)) for name, pid in pids.items()}
        began = time.time()
        agents = await asyncio.gather(*(crowd.start(number) for number in range(count)))
        await asyncio.gather(*(board.until(agent_id, "running") for agent_id in agents))
        seconds = time.time() - began
        used = {name: cpu_seconds(int(pid)) - before[name] for name, pid in pids.items()}
        await asyncio.gather(*(crowd.stop(number, agent_id) for number, agent_id in enumerate(agents)))
        await asyncio.gather(*(board.until(agent_id, "terminated") for agent_id in agents))
        await board.close()
        return seconds, used

    def _beside(self, what: str, ours: float, floor: float, allowed: float) -> None:
        value = f"{ours:.2f} s, floor + {ours - floor:.2f} s, {ours / floor:.2f} x"
        self.note(what, value, f"<= floor + {allowed:.1f} s", ours - floor <= allowed)


def _middle(values: list[float]) -> float:
    return percentile(values[1:], 50)


def _stack(cluster: Cluster, scratch: Path) -> Any:
    config = scratch / "berth.yaml"
    templates = {name: template.model_dump(mode="json", exclude_unset=True) for name, template in _TEMPLATES.items()}
    gentle = {"runtime": "kubernetes", "template": _GENTLE, "capacity": 200, "max_starting": _MOST_STARTING}
    config.write_text(json.dumps({"templates": templates, "pools": {_GENTLE: gentle}}))
    return local_stack(
        scratch / "data",
        "kubernetes",
        CONFIG=str(config),
        KUBERNETES__KUBECONFIG=str(cluster.kubeconfig),
        KUBERNETES__NAMESPACE="agents",
        API__AGENT_HOST=cluster.host_address,
        POOL__CAPACITY="200",
        THRESHOLDS__CPU_PERCENT="100",
        THRESHOLDS__MEMORY_PERCENT="100",
        # Pods without a life are measured, too.
        TIMINGS__REAP_SECONDS="3600",
    )
