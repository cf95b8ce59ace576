"""Twenty starts, then twenty stops, asked at once, and a part killed before the first second is over."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.fixtures.kubernetes import Land
from tests.fixtures.plain import NO_TLS
from tests.fixtures.stack import LocalStack, Person, eventually, local_stack

AT_ONCE = 20
PARTS = ["api", "worker", "temporal"]
MOMENTS = [0.05, 0.1, 0.25, 1.0]
QUICK = 0.1
ROOM = {"POOL__CAPACITY": str(AT_ONCE), "TIMINGS__REAP_SECONDS": "2", "TIMINGS__GRANT_TICK_SECONDS": "2"}


@pytest_asyncio.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    async with local_stack(tmp_path_factory.mktemp("moment") / "data", **ROOM) as one:
        yield one


class Crowd:
    """Clients of one user, all of whom ask in the same moment."""

    def __init__(self, ann: Person) -> None:
        self.ann = ann

    async def asked_once(self, path: str, key: str) -> httpx2.Response | None:
        """The answer to a client that asks once and gives up; None when there was none."""
        headers = {"Authorization": f"Bearer {self.ann.token}", "Idempotency-Key": key}
        try:
            async with httpx2.AsyncClient(timeout=30, verify=NO_TLS) as http:
                return await http.post(self.ann.stack.url + path, headers=headers)
        except (httpx2.HTTPError, OSError):
            return None

    async def at_once(self, paths: list[str], keys: list[str], part: str, moment: float) -> dict[str, httpx2.Response]:
        """Ask all, kill, and return what was accepted, by its key."""
        asked = [asyncio.create_task(self.asked_once(path, key)) for path, key in zip(paths, keys, strict=True)]
        await asyncio.sleep(moment)
        killed = self.ann.stack.kill(part)
        answers = await asyncio.gather(*asked)
        await self.ann.stack.replaced(part, killed)
        await self.ann.stack.whole()
        asked_and_answered = zip(keys, answers, strict=True)
        return {key: answer for key, answer in asked_and_answered if answer is not None and answer.status_code < 300}

    async def theirs(self) -> dict[str, str]:
        """The agent of each project."""
        every = (await self.ann.ask("GET", "/api/agents?limit=200")).json()["items"]
        return {agent["projectId"]: agent["agentId"] for agent in every}

    async def carried_out(self, projects: Iterable[str]) -> dict[str, str]:
        """Return once each of these has an agent, which nobody asks for any more."""
        found: dict[str, str] = {}

        async def all_there() -> bool:
            found.update(await self.theirs())
            return set(projects) <= set(found)

        await eventually(all_there, f"agents of {projects}")
        return found


async def _start_and_stop(stack: LocalStack, part: str, moment: float) -> None:
    name = f"{part}-{moment:g}"
    projects = [f"{name}-{number}" for number in range(AT_ONCE)]
    ann = await stack.user(f"ann-{name}", *projects, tier="enterprise")
    crowd = Crowd(ann)

    paths = [f"/api/projects/{project}/start-agent" for project in projects]
    accepted = await crowd.at_once(paths, projects, part, moment)
    made = await crowd.carried_out(accepted)
    # Who got no answer asks again, under the same key; who got one, gets the same.
    agents = [await ann.start(project, key=project) for project in projects]
    again = dict(zip(projects, agents, strict=True))
    assert len(set(agents)) == AT_ONCE
    assert {project: again[project] for project in accepted} == {project: made[project] for project in accepted}
    named = {project: _named(answer.json()) for project, answer in accepted.items()}
    assert {project: agent for project, agent in named.items() if agent not in (None, again[project])} == {}
    for agent_id in agents:
        await ann.until(agent_id, "running")
    assert await crowd.theirs() == again
    await stack.sound()

    paths = [f"/api/agents/{agent_id}/stop" for agent_id in agents]
    accepted = await crowd.at_once(paths, [f"stop {project}" for project in projects], part, moment)
    told = {answer.json()["agentId"] for answer in accepted.values()}
    for agent_id in told:
        await ann.until(agent_id, "terminated")
    for agent_id in set(agents) - told:
        answer = await ann.ask("POST", f"/api/agents/{agent_id}/stop", json={})
        assert answer.status_code == 202 or answer.json()["code"] == "wrong_state", answer.text
        await ann.until(agent_id, "terminated")
    await stack.sound()


def _named(answer: dict[str, Any]) -> str | None:
    """The agent in an answer to a start; None while it is not decided."""
    agent_id: str | None = answer.get("agentId") or answer.get("agent", {}).get("agentId")
    return agent_id


@pytest.mark.timeout(180)
@pytest.mark.parametrize("part", PARTS)
async def test_what_was_accepted_in_the_moment_before_a_kill_is_carried_out(stack: LocalStack, part: str) -> None:
    await _start_and_stop(stack, part, QUICK)


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if moment != QUICK])
@pytest.mark.parametrize("part", PARTS)
async def test_what_was_accepted_in_any_moment_before_a_kill_is_carried_out(
    stack: LocalStack, part: str, moment: float
) -> None:
    await _start_and_stop(stack, part, moment)


@pytest.mark.chaos
@pytest.mark.needs("cluster")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", PARTS)
async def test_what_was_accepted_before_a_kill_is_carried_out_as_pods(land: Land, tmp_path: Path, part: str) -> None:
    async with land.stack(tmp_path, land.template(), READY_DEADLINE_SECONDS=300) as stack:
        for moment in MOMENTS:
            await _start_and_stop(stack, part, moment)
