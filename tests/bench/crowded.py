"""The watcher among thousands of pods, which KWOK plays."""

import asyncio
from pathlib import Path
from typing import Protocol

from core.domain.placement import KubernetesTemplate, ReadyBy
from core.domain.templates import Template
from core.settings import Kubernetes
from k8s.client import Cluster as Connection
from k8s.cluster.cluster import Cluster
from k8s.images.store import TINY
from k8s.space import Space
from tests.bench.floor import Sight, bare_pod
from tests.fixtures.cluster import played_node
from tests.fixtures.stack import LocalStack

_NODES = 8
_AT_ONCE = 16
_MOST_MIB = 150
# Long enough for a look of every kind that is made every few seconds.
_REST_SECONDS = 15


class Note(Protocol):
    def __call__(self, name: str, value: str, asked: str = "", good: bool | None = None) -> None: ...


async def watcher_memory(
    note: Note, connection: Connection, cluster: Cluster, agents: Space, sight: Sight, stack: LocalStack, count: int
) -> None:
    """Put `count` pods that bear the installation's marks before a real `berth watch`, and weigh it."""
    await asyncio.to_thread(cluster.start_kwok)
    for number in range(_NODES):
        await connection.call("POST", "/api/v1/nodes", doing="playing a node", body=played_node(f"played-{number}"))
    before, gate = _mib(stack.pid("watch"), "VmRSS"), asyncio.Semaphore(_AT_ONCE)
    template = Template(image=TINY, kubernetes=KubernetesTemplate(ready_by=ReadyBy.PROBE))

    async def make(number: int) -> None:
        pod = bare_pod(template, Kubernetes().installation)
        pod["spec"] |= {"nodeName": f"played-{number % _NODES}", "tolerations": [{"operator": "Exists"}]}
        async with gate:
            await agents.create("pods", pod, "playing a pod")

    there = sight.ready_so_far
    await asyncio.gather(*(make(number) for number in range(count)))
    await sight.ready_count(there + count)
    await asyncio.sleep(_REST_SECONDS)
    pid = stack.pid("watch")
    now, most = _mib(pid, "VmRSS"), _mib(pid, "VmHWM")
    value = f"{now:.0f} MiB, at most {most:.0f} MiB, {before:.0f} MiB before"
    note(f"watcher's memory at {count} pods", value, f"< {_MOST_MIB} MiB", most < _MOST_MIB)


def _mib(pid: int, what: str) -> float:
    """`VmRSS` or `VmHWM`, the most it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(what)
