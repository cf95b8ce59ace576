"""The API in front of true lives: real Temporal, a real worker, simulated agents."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx2
import pytest_asyncio
from pydantic import SecretStr

from core.domain.tiers import Tier
from core.settings import Auth
from tests.fixtures.api import SECRET, Api, replica
from tests.fixtures.stage import Stage, until


@pytest_asyncio.fixture
async def lively(stage: Stage) -> AsyncIterator[Api]:
    settings = stage.settings.model_copy(update={"auth": Auth(secret=SecretStr(SECRET))})
    async with replica(stage.db, settings, stage.lives) as api:
        await api.member("owner", ["shop"])
        yield api


async def _state(api: Api, agent_id: str, wanted: str) -> None:
    async def reached() -> bool:
        found = await api.ask("GET", f"/api/agents/{agent_id}")
        return str(found.json()["state"]) == wanted

    await until(reached, f"{agent_id} to be {wanted}")


async def _insist(api: Api, user_id: str = "owner", project_id: str = "shop") -> httpx2.Response:
    """Ask with one key until somebody decided."""
    answer = await api.start(user_id, project_id, key="k")

    async def decided() -> bool:
        nonlocal answer
        answer = await api.start(user_id, project_id, key="k")
        return str(answer.json().get("status")) != "pending"

    await until(decided, "a decision")
    return answer


async def test_life_is_started_kept_stopped_and_over(lively: Api) -> None:
    started = await lively.start(key="k")
    assert started.status_code == 201, started.text
    agent_id = started.json()["agent"]["agentId"]
    await _state(lively, agent_id, "running")
    assert (await lively.start()).status_code == 200
    await lively.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 60})
    await _state(lively, agent_id, "draining")
    kept = await lively.start()
    assert (kept.status_code, kept.json()["agent"]["agentId"], kept.json()["agent"]["state"]) == (
        200,
        agent_id,
        "running",
    )
    await lively.ask("POST", f"/api/agents/{agent_id}/stop")
    await _state(lively, agent_id, "terminated")
    assert (await lively.start(key="k")).text == started.text


async def test_hundred_calls_with_one_key_over_two_replicas_start_one_true_life(lively: Api) -> None:
    async with replica(lively.db, lively.settings, lively.lives) as other:
        calls = ((lively, other)[n % 2].start(key="once") for n in range(100))
        answers = await asyncio.gather(*calls)
        answers = [await lively.start(key="once") if each.json()["status"] == "pending" else each for each in answers]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert await lively.sql("SELECT count(*) AS n FROM agents") == [{"n": 1}]


async def test_hundred_projects_of_a_free_user_at_once_get_one_true_life(lively: Api) -> None:
    names = [f"p{n}" for n in range(100)]
    await lively.member("greedy", names, Tier.FREE)

    answers = await asyncio.gather(*(_insist(lively, "greedy", name) for name in names))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {201: 1, 403: 99}


async def test_start_without_a_worker_is_pending_and_its_key_finds_the_answer(lively: Api, stage: Stage) -> None:
    await stage.worker_down()
    pending = await lively.start(key="k")
    assert (pending.status_code, pending.json()) == (202, {"status": "pending"})
    await stage.worker_up()
    answer = await _insist(lively)
    assert answer.status_code == 201, answer.text
    assert await lively.sql("SELECT count(*) AS n FROM agents") == [{"n": 1}]
