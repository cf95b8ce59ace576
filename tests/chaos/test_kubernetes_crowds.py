"""Crowds of agents on nodes that KWOK plays: whatever is killed meanwhile, each has one pod, and none is left over."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from core.domain.templates import Template
from k8s.cluster.cluster import Cluster
from tests.fixtures.cluster import Kubectl, played_node
from tests.fixtures.kubernetes import Land
from tests.fixtures.stack import LocalStack, Person, eventually

pytestmark = [pytest.mark.needs("cluster"), pytest.mark.chaos, pytest.mark.timeout(4800)]
KINDS = ("pod", "secret", "service")
AT_ONCE = 16
CROWD = 100
PLAYED = "played"
PATIENCE = 900


@pytest.fixture(scope="module")
def played(cluster: Cluster) -> Iterator[None]:
    """Four nodes with much room, on which pods are ready as soon as they are placed, and volumes for a hundred."""
    cluster.start_kwok()
    kubectl, nodes = Kubectl(cluster), [f"played-{number}" for number in range(4)]
    # Those of the cluster's own class lie on a real node, and no pod of a played one could have them.
    volumes = [f"played-{number}" for number in range(CROWD)]
    kubectl.apply(*(played_node(name) for name in nodes), played_class(), *(played_volume(name) for name in volumes))
    yield
    kubectl("delete", "node", *nodes)
    kubectl("delete", "persistentvolume", "--wait=false", *volumes)
    kubectl("delete", "storageclass", PLAYED)


def played_class() -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": PLAYED},
        "provisioner": "kubernetes.io/no-provisioner",
    }


def played_volume(name: str) -> dict[str, Any]:
    """A volume that every node could have."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Mi"},
            "accessModes": ["ReadWriteOncePod"],
            "storageClassName": PLAYED,
            "hostPath": {"path": f"/nonexistent/{name}"},
        },
    }


async def crowd(stack: LocalStack, users: int, each: int, tier: str) -> dict[str, tuple[Person, str]]:
    """Start `each` agents of so many users, all at once; the projects' agents."""
    people = [
        await stack.user(f"user-{number}", *(f"p-{number}-{one}" for one in range(each)), tier=tier)
        for number in range(users)
    ]
    gate = asyncio.Semaphore(AT_ONCE)

    async def start(person: Person, project: str) -> tuple[str, tuple[Person, str]]:
        async with gate:
            return project, (person, await person.start(project))

    wanted = [(person, f"p-{number}-{one}") for number, person in enumerate(people) for one in range(each)]
    return dict(await asyncio.gather(*(start(*one) for one in wanted)))


async def states(lives: dict[str, tuple[Person, str]]) -> list[str]:
    """Of all agents of these people, those of earlier lives too."""
    found: list[str] = []
    for person in {person.user_id: person for person, _ in lives.values()}.values():
        path = "/api/agents?limit=200"
        found += [agent["state"] for agent in (await person.ask("GET", path)).json()["items"]]
    return found


async def all_are(lives: dict[str, tuple[Person, str]], state: str) -> None:
    async def reached() -> bool:
        return await states(lives) == [state] * len(lives)

    await eventually(reached, f"all to be {state}", patience=PATIENCE, every=2)


async def stop(lives: dict[str, tuple[Person, str]]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(person: Person, agent_id: str) -> None:
        async with gate:
            await person.stop(agent_id)

    await asyncio.gather(*(one(*life) for life in lives.values()))


def of_kind(land: Land) -> dict[str, int]:
    names = land.names("pods,services,secrets,persistentvolumeclaims")
    return {kind: sum(name.startswith(f"{kind}/") for name in names) for kind in (*KINDS, "persistentvolumeclaim")}


async def test_hundred_starts_under_kills_are_a_hundred_agents_and_nothing_else(
    land: Land, played: None, tmp_path: Path
) -> None:
    async with land.stack(
        tmp_path, played_template(land, profile={"size": "1Mi", "storage_class": PLAYED}), READY_DEADLINE_SECONDS=300
    ) as stack:
        starting = asyncio.create_task(crowd(stack, users=10, each=10, tier="premium"))

        async def under_way() -> bool:
            return of_kind(land)["pod"] >= 20

        for part in ("worker", "watch"):
            await eventually(under_way, "some pods", patience=PATIENCE)
            stack.kill(part)
        lives = await starting
        stack.kill("watch")
        stack.kill("worker")
        await all_are(lives, "running")
        assert of_kind(land) == {"pod": 100, "secret": 100, "service": 100, "persistentvolumeclaim": 100}
        there = json.loads(land.kubectl("get", "pods", "-l", "app=agent", "-o", "json"))["items"]
        whose = sorted(pod["metadata"]["annotations"]["berth.dev/agent-id"] for pod in there)
        assert whose == sorted(agent_id for _, agent_id in lives.values())
        await stop(lives)
        stack.kill("worker")
        await all_are(lives, "terminated")
        # Profiles outlive their agents: one of each project, and nothing else.
        assert of_kind(land) == {"pod": 0, "secret": 0, "service": 0, "persistentvolumeclaim": 100}


async def test_nothing_that_happens_to_two_thousand_agents_is_missed(
    land: Land, played: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nobody uses them, and to start them all takes a small machine half an hour.
    unhurried = {"READY_DEADLINE_SECONDS": 600, "IDLE_SECONDS": 86_400}
    async with land.stack(tmp_path, played_template(land), **unhurried) as stack:
        lives = await crowd(stack, users=40, each=50, tier="enterprise")
        await all_are(lives, "running")
        lost = json.loads(land.kubectl("get", "pods", "-l", "app=agent", "-o", "json"))["items"][::10]
        ids = {pod["metadata"]["annotations"]["berth.dev/agent-id"] for pod in lost}
        for first in range(0, len(lost), 50):
            names = [pod["metadata"]["name"] for pod in lost[first : first + 50]]
            land.kubectl("delete", "pod", "--wait=false", *names)

        async def back() -> bool:
            seen = [await person.agent(agent_id) for person, agent_id in lives.values() if agent_id in ids]
            # Once more for one whose played node was not heard of in time, on a machine that is busy.
            return all(agent["state"] == "running" and agent["restartCount"] >= 1 for agent in seen)

        await eventually(back, "those whose pod was deleted to be back", patience=PATIENCE, every=5)
        await all_are(lives, "running")
        assert of_kind(land) == {"pod": 2000, "secret": 2000, "service": 2000, "persistentvolumeclaim": 0}
        watches = [call for call in audited(land) if call["verb"] == "watch" and call["stage"] == "ResponseStarted"]
        with capsys.disabled():
            sys.stdout.write(f"\nrestarts: {await restarts(stack)}")
            for part in ("worker", "watch", "api"):
                used = f"{memory(stack.pid(part))}, {processor(stack.pid(part)):.0f} s of CPU"
                sys.stdout.write(f"\n2,000 agents: {part}: {used}")
            sys.stdout.write(f"\nwatches of pods begun: {len(watches)}\n")


def played_template(land: Land, **more: Any) -> Template:
    tolerated = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
    return land.template({"node_selector": {"type": "kwok"}, "tolerations": tolerated, "topology_spread": None, **more})


def audited(land: Land) -> Iterator[dict[str, Any]]:
    with land.cluster.audit_log.open() as log:
        for line in log:
            call = json.loads(line)
            asked = call.get("objectRef") or {}
            if (asked.get("namespace"), asked.get("resource")) == (land.namespace, "pods"):
                yield call


async def restarts(stack: LocalStack) -> dict[str, int]:
    """By what made them needed."""
    connection = await asyncpg.connect(str(stack.about["database"]))
    query = "SELECT reason, count(*) FROM events WHERE kind = 'agent.restarting' GROUP BY reason"
    counted = {row["reason"]: row["count"] for row in await connection.fetch(query)}
    await connection.close()
    return counted


def memory(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return ", ".join(" ".join(line.split()) for line in lines if line.startswith(("VmRSS", "VmHWM")))


def processor(pid: int) -> float:
    """Seconds of CPU since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
