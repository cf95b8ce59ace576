"""Many requests at once, over HTTP, through the real parts."""

import asyncio
from collections import Counter

import httpx2
import pytest

from tests.fixtures.stack import LocalStack, Person


async def _start(someone: Person, http: httpx2.AsyncClient, project: str, key: str) -> tuple[int, str]:
    """Status and word of the decision; what is pending is asked again with its key."""
    headers = {"Authorization": f"Bearer {someone.token}", "Idempotency-Key": key}
    while True:
        answer = await http.post(f"/api/projects/{project}/start-agent", headers=headers)
        body = answer.json()
        if body.get("status") != "pending":
            return answer.status_code, str(body.get("reason") or body["status"])


@pytest.mark.timeout(180)
async def test_of_a_hundred_requests_of_one_free_user_exactly_one_is_granted(local: LocalStack) -> None:
    projects = [f"p{number}" for number in range(100)]
    ann = await local.user("ann", *projects)
    async with httpx2.AsyncClient(base_url=local.url, timeout=60, limits=httpx2.Limits(max_connections=100)) as http:
        decided = await asyncio.gather(*(_start(ann, http, project, f"key-{project}") for project in projects))
    assert Counter(decided) == {(201, "created"): 1, (403, "max_agents_exceeded"): 99}
    living = (await ann.ask("GET", "/api/agents")).json()["items"]
    assert len(living) == 1


@pytest.mark.timeout(180)
async def test_the_same_request_a_hundred_times_under_one_key_is_one_agent_and_one_answer(local: LocalStack) -> None:
    ann = await local.user("ann", "shop")
    headers = {"Authorization": f"Bearer {ann.token}", "Idempotency-Key": "once"}

    async def ask(http: httpx2.AsyncClient) -> tuple[int, str]:
        while True:
            answer = await http.post("/api/projects/shop/start-agent", headers=headers)
            if answer.json()["status"] != "pending":
                return answer.status_code, answer.text

    async with httpx2.AsyncClient(base_url=local.url, timeout=60, limits=httpx2.Limits(max_connections=100)) as http:
        answers = Counter(await asyncio.gather(*(ask(http) for _ in range(100))))
    assert len(answers) == 1, [status for status, _ in answers]
    assert len((await ann.ask("GET", "/api/agents")).json()["items"]) == 1


@pytest.mark.timeout(240)
async def test_a_living_agent_is_returned_to_2500_further_starts(local: LocalStack) -> None:
    """More than the 2,000 updates a workflow run takes: these are answered from the row."""
    ann = await local.user("ann", "shop")
    agent_id = await ann.start("shop")
    await ann.until(agent_id, "running")
    gate = asyncio.Semaphore(20)

    async def again(http: httpx2.AsyncClient) -> tuple[int, str]:
        async with gate:
            headers = {"Authorization": f"Bearer {ann.token}"}
            answer = await http.post("/api/projects/shop/start-agent", headers=headers)
            return answer.status_code, answer.json()["agent"]["agentId"]

    async with httpx2.AsyncClient(base_url=local.url, timeout=60) as http:
        answers = Counter(await asyncio.gather(*(again(http) for _ in range(2500))))
    assert answers == {(200, agent_id): 2500}
    described = await local.temporal("workflow", "describe", "-w", f"agent/{ann.user_id}/shop", "--output", "json")
    assert '"status": "WORKFLOW_EXECUTION_STATUS_RUNNING"' in described
