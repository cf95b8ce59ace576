"""A cluster in which no node has room for one more: who asks waits in line, and is let in when a pod goes."""

from pathlib import Path

import pytest

from core.domain.templates import Resources
from tests.fixtures.kubernetes import Land
from tests.fixtures.stack import LocalStack, Person

pytestmark = [pytest.mark.needs("cluster"), pytest.mark.timeout(300)]

# More than half of the smallest node: what is left of all nodes together would do, but of none alone.
LARGE = Resources(cpu=1.2, memory_mib=16, cpu_limit=2, memory_limit_mib=64)
MOST_NODES = 8


async def fill(stack: LocalStack) -> list[tuple[Person, str]]:
    """Start agents until one has to wait; it is the last."""
    found: list[tuple[Person, str]] = []
    for number in range(MOST_NODES + 1):
        person = await stack.user(f"user-{number}", f"p-{number}")
        agent_id = await person.start(f"p-{number}")
        found.append((person, agent_id))
        if (await person.agent(agent_id))["state"] == "queued":
            return found
        await person.until(agent_id, "running")
    raise AssertionError(f"{MOST_NODES} agents have a place: this cluster is too large for the test")


async def test_agent_larger_than_what_is_free_waits_and_runs_when_a_pod_goes(land: Land, tmp_path: Path) -> None:
    async with land.stack(tmp_path, land.template(resources=LARGE), SNAPSHOT_SECONDS=1) as stack:
        *holders, (waiting, agent_id) = await fill(stack)
        asked = await waiting.agent(agent_id)
        assert (asked["reason"], asked["position"]) == ("no_suitable_node", 1)
        pods = land.names("pods")
        assert len(pods) == len(holders) >= 1
        assert not any(agent_id in name for name in pods), "nothing is made before its turn"
        leaver, leaves = holders[0]
        await leaver.stop(leaves)
        await waiting.until(agent_id, "running")
        assert (await waiting.kinds(agent_id))[:4] == ["requested", "queued", "admitted", "starting"]
        assert len(land.names("pods")) == len(holders)
