"""Saved work at the API: an attempt stores its own, once, without a command; its user alone fetches it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from core.db.repositories import artefacts, retention
from core.domain.lifecycle import AgentState
from core.domain.wire import MAX_ARTEFACT_BYTES, ZIP, saved_work_id
from core.tokens import hash_token
from tests.fixtures.live import Berthed, LiveStage
from tests.integration.test_live_artefacts import PNG, Open, announce

WORK = b"PK\x03\x04" + bytes(range(256)) * 9000


async def put(
    live: LiveStage, agent: Berthed, saved_id: str = "saved 1", content: bytes = WORK, kind: str = ZIP, **headers: str
) -> httpx2.Response:
    named = {"X-Agent-Token": agent.token, "Content-Type": kind, **headers}
    return await live.http.put(f"{live.replicas[1]}/agent-artefacts/{saved_id}", content=content, headers=named)


async def one(live: LiveStage, agent: Berthed, user_id: str | None = None) -> httpx2.Response:
    return await live.http.get(
        f"{live.replicas[0]}/api/agents/{agent.agent_id}", headers=live.bearer(user_id or agent.user_id)
    )


async def saved_work(live: LiveStage, agent: Berthed) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await one(live, agent)).json()["savedWork"]
    return found


async def test_saved_work_is_taken_once_and_comes_back_to_its_user_alone(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"), AgentState.DRAINING)
    assert await saved_work(live, agent) == []
    stored = await put(live, agent)
    assert stored.status_code == 200, stored.text
    assert (stored.json()["contentType"], stored.json()["bytes"]) == ("application/zip", len(WORK))
    assert (await put(live, agent, content=b"something else")).json() == stored.json()
    assert await saved_work(live, agent) == [{"attempt": 1, **stored.json()}]
    fresh = await live.agent(agent.user_id)
    listed = await live.http.get(f"{live.replicas[0]}/api/agents", headers=live.bearer(agent.user_id))
    found = {each["agentId"]: each["savedWork"] for each in listed.json()["items"]}
    assert found == {agent.agent_id: [{"attempt": 1, **stored.json()}], fresh.agent_id: []}
    url = live.replicas[0] + stored.json()["url"]
    answer = await live.http.get(url, headers=live.bearer(agent.user_id))
    assert answer.content == WORK
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"].endswith('.zip"')
    eve = await live.user("eve")
    assert (await live.http.get(url, headers=live.bearer(eve))).status_code == 404
    assert (await one(live, agent, eve)).status_code == 404
    assert (await live.http.get(url, headers={"X-Agent-Token": agent.token})).status_code == 401


async def test_nobody_but_the_current_attempt_stores_under_its_id(live: LiveStage) -> None:
    user = await live.user("ann")
    agent, other = await live.agent(user), await live.agent(user)
    assert (await put(live, agent, "saved 2")).status_code == 404
    assert (await put(live, agent, "saved 01")).status_code == 404
    forged = Berthed(agent_id=agent.agent_id, user_id=user, token="agent_forged")
    assert (await put(live, forged)).status_code == 401
    assert (await put(live, agent, Origin="https://evil.example")).status_code == 403
    assert (await put(live, other)).status_code == 200
    assert await saved_work(live, agent) == [], "another agent's token stored for this one"

    await live.change(agent, attempt=2, token_hash=hash_token("agent_second"))
    assert (await put(live, agent)).status_code == 401, "the token of an attempt that is over"
    second = Berthed(agent_id=agent.agent_id, user_id=user, token="agent_second", attempt=2)
    assert (await put(live, second)).status_code == 404, "the id of an attempt that is over"
    stored = await put(live, second, "saved 2")
    assert await saved_work(live, agent) == [{"attempt": 2, **stored.json()}]

    await live.change(agent, state=AgentState.TERMINATED.value)
    assert (await put(live, second, "saved 2")).status_code == 401, "the agent is over"


async def test_saved_work_is_a_zip_and_nothing_else_is(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with Open(live, agent):
        for saved_id, kind in (("saved 1", "image/png"), ("shot", ZIP)):
            answer = await put(live, agent, saved_id, PNG, kind)
            assert (answer.status_code, answer.json()["code"]) == (422, "unsupported_content_type")
    assert await live.rows("SELECT 1 FROM artefacts WHERE agent_id = :a", a=agent.agent_id) == []


async def test_saved_work_over_fifty_mebibytes_is_refused(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    assert b"artefact_too_large" in await announce(live, agent, "saved%201", MAX_ARTEFACT_BYTES + 1, ZIP)


async def test_no_command_can_have_the_id_of_saved_work(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    answer = await live.execute(agent, {"command": "state"}, key=saved_work_id(1))
    assert answer.status_code == 422, answer.text
    assert await live.rows("SELECT 1 FROM commands WHERE agent_id = :a", a=agent.agent_id) == []


async def test_what_each_attempt_saved_is_found_the_newest_first_also_beyond_nine(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    other = await live.agent(agent.user_id)
    of_other = {"attempt": 1, **(await put(live, other)).json()}
    stored = {}
    for attempt in (10, 2, 9):  # the order in which they came says nothing
        await live.change(agent, attempt=attempt)
        answer = await put(live, agent, f"saved {attempt}", content=str(attempt).encode() * attempt)
        assert answer.status_code == 200
        stored[attempt] = {"attempt": attempt, **answer.json()}
    newest_first = [stored[10], stored[9], stored[2]]
    assert await saved_work(live, agent) == newest_first
    listed = await live.http.get(f"{live.replicas[0]}/api/agents", headers=live.bearer(agent.user_id))
    found = {each["agentId"]: each["savedWork"] for each in listed.json()["items"]}
    assert found == {agent.agent_id: newest_first, other.agent_id: [of_other]}
    for work in newest_first:
        fetched = await live.http.get(live.replicas[0] + work["url"], headers=live.bearer(agent.user_id))
        assert fetched.content == str(work["attempt"]).encode() * work["attempt"]


async def test_work_of_the_last_five_attempts_that_saved_some_is_kept_of_each_agent(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    other = await live.agent(agent.user_id)
    assert (await put(live, other)).status_code == 200
    urls: dict[int, str] = {}
    for attempt in (1, 2, 3, 5, 8, 9, 10):  # not all of them saved something
        await live.change(agent, attempt=attempt)
        urls[attempt] = (await put(live, agent, f"saved {attempt}", content=b"PK")).json()["url"]
    assert [each["attempt"] for each in await saved_work(live, agent)] == [10, 9, 8, 5, 3]
    bearer = live.bearer(agent.user_id)
    found = [(await live.http.get(live.replicas[0] + url, headers=bearer)).status_code for url in urls.values()]
    assert found == [404, 404, 200, 200, 200, 200, 200]
    assert [each["attempt"] for each in await saved_work(live, other)] == [1]


async def test_saved_work_is_forgotten_with_its_agent(live: LiveStage) -> None:
    agent, at = await live.agent(await live.user("ann")), datetime.now(UTC)
    stored = (await put(live, agent)).json()
    await live.change(agent, state=AgentState.TERMINATED.value, ended_at=at - timedelta(days=2))
    async with live.db.transaction() as session:
        assert await artefacts.chunk(session, stored["artefactId"], 0) is not None
        assert await retention.forget_artefacts(session, at - timedelta(days=1)) == 1
        while await retention.forget_events(session, at - timedelta(days=1), 50):
            pass
        assert await retention.forget_ended(session, at - timedelta(days=1), 50) == 1
        assert await artefacts.chunk(session, stored["artefactId"], 0) is None


# ---- what an agent says of its use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ([(1.5, 900), (2.5, 900)], (2.5, 900)),
        # An attempt's last word holds where a later one does not tell.
        ([(1.5, 900), (None, None)], (1.5, 900)),
        ([(None, None)], (None, None)),
    ],
)
async def test_use_is_kept_with_the_attempt(
    live: LiveStage, told: list[tuple[Any, Any]], kept: tuple[Any, Any]
) -> None:
    agent = await live.agent(await live.user("ann"))
    headers = {"X-Agent-Token": agent.token}
    body = {"agentId": agent.agent_id, "attempt": 1}
    await live.http.post(f"{live.replicas[0]}/agent-register", json=body, headers=headers)
    for cpu, peak in told:
        health = {"status": "stopping", "uptime": 1, "memory": 7, "browserActive": True, "channel": "connecting"}
        health |= {"cpuSeconds": cpu, "peakMemoryBytes": peak, "ofALaterRelease": 1}
        beat = {"agentId": agent.agent_id, "health": health}
        answer = await live.http.post(f"{live.replicas[0]}/agent-heartbeat", json=beat, headers=headers)
        assert answer.status_code == 200, answer.text
    (row,) = await live.rows("SELECT health FROM channels WHERE agent_id = :a", a=agent.agent_id)
    assert (row["health"]["cpuSeconds"], row["health"]["peakMemoryBytes"]) == kept
