"""What agents without a socket say by HTTP: how often, how many at a time, and how much of it is kept."""

import asyncio
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from core.domain.wire import MAX_DETAIL
from core.tokens import hash_token
from tests.fixtures.live import Berthed, LiveStage, eventually

_WELL = {"status": "healthy", "uptime": 1, "memory": 1, "browserActive": True, "channel": "connecting"}


async def _register(live: LiveStage, agent: Berthed) -> httpx2.Response:
    body, headers = {"agentId": agent.agent_id, "attempt": 1}, {"X-Agent-Token": agent.token}
    return await live.http.post(f"{live.replicas[0]}/agent-register", json=body, headers=headers)


async def _registered(live: LiveStage) -> Berthed:
    """An agent that has said by HTTP that it is there."""
    agent = await live.agent(await live.user("ann"))
    assert (await _register(live, agent)).status_code == 200
    return agent


async def _report(live: LiveStage, agent: Berthed, **health: Any) -> httpx2.Response:
    body = {"agentId": agent.agent_id, "health": _WELL | health}
    return await live.http.post(
        f"{live.replicas[0]}/agent-heartbeat", json=body, headers={"X-Agent-Token": agent.token}
    )


async def _kept(live: LiveStage, agent: Berthed) -> dict[str, Any]:
    (row,) = await live.rows("SELECT health FROM channels WHERE agent_id = :a", a=agent.agent_id)
    return dict(row["health"])


async def test_third_report_of_an_agent_at_a_time_is_told_to_come_again_and_costs_others_nothing(
    live: LiveStage,
) -> None:
    agent, other = await _registered(live), await _registered(live)
    seats = live.apps[0].state.live.reporting
    async with live.db.transaction() as session:
        await session.execute(text("SELECT 1 FROM channels WHERE agent_id = :a FOR UPDATE"), {"a": agent.agent_id})
        held = [asyncio.create_task(_report(live, agent)) for _ in range(2)]
        await eventually(lambda: seats.taken(hash_token(agent.token)) == 2)
        for refused in await asyncio.gather(*(_report(live, agent) for _ in range(100))):
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_requests")
            assert int(refused.headers["Retry-After"]) > 0
        assert (await _register(live, agent)).status_code == 503
        assert (await _report(live, other)).status_code == 200
    assert [(await each).status_code for each in held] == [200, 200]
    assert (await _report(live, agent)).status_code == 200


async def test_report_by_http_is_stored_once_a_second_and_at_once_when_the_agent_is_worse(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, other = await _registered(live), await _registered(live)
    beats = live.apps[0].state.live.beats
    monkeypatch.setattr(beats, "seconds", 3600)
    for memory in (1, 2, 3):
        answer = await _report(live, agent, memory=memory)
        assert (answer.status_code, answer.json()) == (200, {"type": "ack", "seq": 0})
    assert (await _kept(live, agent))["memory"] == 1
    await _report(live, other, memory=4)
    assert (await _kept(live, other))["memory"] == 4
    await _report(live, agent, memory=5, status="unhealthy")
    assert (await _kept(live, agent))["memory"] == 5
    monkeypatch.setattr(beats, "seconds", 0)
    await _report(live, agent, memory=6, status="unhealthy")
    assert (await _kept(live, agent))["memory"] == 6


async def test_report_that_says_too_much_is_cut_and_not_refused(live: LiveStage) -> None:
    agent = await _registered(live)
    assert (await _report(live, agent, detail="x" * 100_000)).status_code == 200
    assert (await _kept(live, agent))["detail"] == "x" * MAX_DETAIL
    async with live.fake(agent).online() as fake:
        await fake.beat("unhealthy", "y" * 100_000)

        async def cut() -> bool:
            return bool((await _kept(live, agent))["detail"] == "y" * MAX_DETAIL)

        await eventually(cut)
