"""The API in front of true lives: real Temporal, a real worker, simulated agents."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from pydantic import SecretStr
from temporalio.client import WorkflowExecutionStatus

from activities import reaping
from core.domain.tiers import Tier
from core.settings import Auth
from tests.fixtures.api import SECRET, Api, replica
from tests.fixtures.orphans import orphaned
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
    assert "berth_starts_undecided_total 1.0\n" in (await lively.http.get("/metrics")).text
    await stage.worker_up()
    answer = await _insist(lively)
    assert answer.status_code == 201, answer.text
    assert await lively.sql("SELECT count(*) AS n FROM agents") == [{"n": 1}]


async def test_start_in_two_seconds_becomes_a_running_agent_and_its_key_still_gives_the_same_answer(
    lively: Api,
) -> None:
    body = {"startAt": (datetime.now(UTC) + timedelta(seconds=2)).isoformat()}
    booked = await lively.start(key="k", json=body)
    assert booked.status_code == 202, booked.text

    async def started() -> dict[str, Any]:
        (found,) = (await lively.ask("GET", "/api/scheduled-starts")).json()["items"]
        assert found["scheduledStartId"] == booked.json()["scheduledStartId"]
        return dict(found)

    async def over() -> bool:
        return str((await started())["state"]) == "started"

    await until(over, "its time to come")
    agent_id = (await started())["agentId"]
    await _state(lively, agent_id, "running")
    assert (await lively.start(key="k", json=body)).json() == booked.json()
    assert [each["agentId"] for each in (await lively.ask("GET", "/api/agents")).json()["items"]] == [agent_id]


async def test_start_to_come_is_taken_back_and_its_run_ends(lively: Api) -> None:
    body = {"startAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    scheduled_start_id = (await lively.start(json=body)).json()["scheduledStartId"]
    assert (await lively.ask("DELETE", f"/api/scheduled-starts/{scheduled_start_id}")).json()["state"] == "cancelled"
    run = lively.lives._client.get_workflow_handle(f"scheduled-start/{scheduled_start_id}")

    async def ended() -> bool:
        return (await run.describe()).status is WorkflowExecutionStatus.CANCELED

    await until(ended, "its run to end")


async def test_start_of_a_user_who_was_put_out_is_refused_and_the_socket_of_events_tells(lively: Api) -> None:
    body = {"startAt": (datetime.now(UTC) + timedelta(seconds=2)).isoformat()}
    booked = (await lively.start(json=body)).json()
    await lively.sql("DELETE FROM memberships WHERE user_id = 'owner' RETURNING 1")

    async def rejected() -> bool:
        (found,) = (await lively.ask("GET", "/api/scheduled-starts")).json()["items"]
        return (found["state"], found["reason"]) == ("rejected", "not_a_member")

    await until(rejected, "it to be refused")
    (told,) = await lively.sql("SELECT kind, agent_id, reason, detail FROM events")
    assert (told["kind"], told["agent_id"], told["reason"]) == ("agent.rejected", None, "not_a_member")
    assert told["detail"]["scheduledStartId"] == booked["scheduledStartId"]


async def test_agent_whose_workflow_is_gone_is_not_said_to_restart(
    lively: Api, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "_SETTLE", timedelta(0))  # nothing counts as too young
    agent_id = (await lively.start()).json()["agent"]["agentId"]
    await _state(lively, agent_id, "running")
    await orphaned(stage, "owner")
    path, again = f"/api/agents/{agent_id}/restart", {"Idempotency-Key": "again"}
    refused = await lively.ask("POST", path, headers=again)
    assert (refused.status_code, refused.json()["code"], refused.headers["Retry-After"]) == (503, "workflow_gone", "30")
    await stage.reap()
    await _state(lively, agent_id, "terminated")
    over = await lively.ask("POST", path, headers=again)
    assert (over.status_code, over.json()["code"]) == (409, "wrong_state")
