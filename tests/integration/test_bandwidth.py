"""How much agents send and receive, where each has a network of its own: told by them, kept, added up and shown."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from api.auth import Role
from core.db.repositories import channels, clusters
from core.domain.lifecycle import AgentState
from core.domain.templates import Pool
from core.runtime.base import ClusterCapacity
from temporal.sampler import Sampler
from tests.fixtures.live import Berthed, LiveStage

# 1 Mbit/s over as long as this. A machine that stands still for a moment makes no difference to it.
LONG, MEGABIT_A_SECOND = timedelta(seconds=1000), 125_000_000

HEALTHY = {"status": "healthy", "uptime": 1, "memory": 7, "browserActive": True, "channel": "connecting"}


async def beat(live: LiveStage, agent: Berthed, network: int | None) -> None:
    body = {"agentId": agent.agent_id, "health": {**HEALTHY, "network": network}}
    headers = {"X-Agent-Token": agent.token}
    answer = await live.http.post(f"{live.replicas[0]}/agent-heartbeat", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


async def reporting(live: LiveStage, *networks: int | None) -> Berthed:
    """An agent that reported these counts one after the other, each `LONG` after the one before."""
    agent = await live.agent(await live.user("ann"), AgentState.RUNNING)
    body, headers = {"agentId": agent.agent_id, "attempt": 1}, {"X-Agent-Token": agent.token}
    await live.http.post(f"{live.replicas[0]}/agent-register", json=body, headers=headers)
    for network in networks:
        await live.rows(
            "UPDATE channels SET health = health || jsonb_build_object('reportedAt', CAST(:at AS text))"
            " WHERE agent_id = :a RETURNING agent_id",
            a=agent.agent_id,
            at=(datetime.now(UTC) - LONG).isoformat(),
        )
        await beat(live, agent, network)
    return agent


async def report(live: LiveStage, agent_id: str, role: Role = Role.ADMIN) -> httpx2.Response:
    path = f"{live.replicas[0]}/api/admin/agents/{agent_id}/report"
    return await live.http.get(path, headers=live.bearer(await live.user("operator"), role))


@pytest.mark.parametrize(
    ("counts", "mbit"),
    [
        ((5, 5 + MEGABIT_A_SECOND), 1.0),
        ((5, 5 + MEGABIT_A_SECOND, 5 + 3 * MEGABIT_A_SECOND), 2.0),
        # One report says how much, not in what time; a count that fell is of a network that was begun anew.
        ((MEGABIT_A_SECOND,), None),
        ((3 * MEGABIT_A_SECOND, 5), 0.0),
        ((None, None), None),
        ((None, 5), None),
        # More than any agent's network carries: it says nothing of what was used.
        ((5, 5 + 9_000 * MEGABIT_A_SECOND), 9_000.0),
        ((5, 5 + 11_000 * MEGABIT_A_SECOND), None),
        ((5, 1 << 60), None),
    ],
)
async def test_operator_sees_what_an_agent_used_between_its_last_two_reports(
    live: LiveStage, counts: tuple[int | None, ...], mbit: float | None
) -> None:
    agent = await reporting(live, *counts)
    told = (await report(live, agent.agent_id)).json()
    assert (told["status"], told["memoryBytes"], told["browserActive"]) == ("healthy", 7, True)
    assert told["networkMbit"] == (None if mbit is None else pytest.approx(mbit, rel=0.1))


async def test_report_is_for_administrators_alone_and_says_when_there_is_none(live: LiveStage) -> None:
    agent = await reporting(live, 5)
    assert (await report(live, agent.agent_id, Role.USER)).status_code == 403
    assert (await report(live, "ag-none")).json()["code"] == "not_found"
    silent = await live.agent(await live.user("bob"), AgentState.STARTING)
    answer = await report(live, silent.agent_id)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_report")


@pytest.mark.parametrize("nonsense", [-1, 1 << 63, float("inf"), float("nan"), "many"])
@pytest.mark.parametrize("field", ["network", "memory", "uptime", "cpuSeconds", "peakMemoryBytes", "viewers"])
async def test_number_that_no_counter_could_have_is_refused(live: LiveStage, field: str, nonsense: Any) -> None:
    agent = await reporting(live, 5)
    async with live.fake(agent).online() as fake:
        health = {**HEALTHY, field: nonsense}
        body = {"agentId": agent.agent_id, "health": health}
        headers = {"X-Agent-Token": agent.token, "Content-Type": "application/json"}
        url = f"{live.replicas[0]}/agent-heartbeat"
        assert (await live.http.post(url, content=json.dumps(body), headers=headers)).status_code == 422
        head = {"type": "heartbeat", "seq": 1, "at": datetime.now(UTC).isoformat()}
        await fake.raw(json.dumps(head | body))
        await fake.status("said after it")
        await fake.heard_all()
        told = await report(live, agent.agent_id)
        assert (told.status_code, told.json()["memoryBytes"]) == (200, 7)


async def test_report_that_an_older_version_kept_and_cannot_be_read_is_none(live: LiveStage) -> None:
    agent = await reporting(live, 5)
    kept = """UPDATE channels SET health = health || '{"uptime": null}' WHERE agent_id = :a RETURNING agent_id"""
    await live.rows(kept, a=agent.agent_id)
    answer = await report(live, agent.agent_id)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_report")


class _Blind:
    """A runtime that cannot see the network of its machines, as Kubernetes."""

    async def capacity(self, wanted: Any = None) -> ClusterCapacity:
        return ClusterCapacity(fits=5, agents=2)

    async def check(self, template: Any) -> None:
        pass


async def test_use_of_a_cluster_is_what_its_living_agents_report_and_is_not_known_when_none_does(
    live: LiveStage,
) -> None:
    settings = live.settings.model_copy(update={"pools": {"default": Pool(runtime="blind", cluster="far")}})
    sampler = Sampler(settings, {"blind": _Blind()}, live.db, live.lives)  # type: ignore[dict-item, arg-type]

    async def there(*networks: int | None) -> Berthed:
        agent = await reporting(live, *networks)
        await live.change(agent, cluster="far")
        return agent

    async def seen() -> float | None:
        await sampler.look()
        async with live.db.transaction() as session:
            look = await clusters.last_look(session, "far")
        assert look is not None
        return look.load.network_mbit

    await there(None, None)
    await reporting(live, 0, 9 * MEGABIT_A_SECOND)
    assert await seen() is None
    first = await there(0, MEGABIT_A_SECOND)
    gone, old = await there(0, 4 * MEGABIT_A_SECOND), await there(0, 8 * MEGABIT_A_SECOND)
    await live.change(gone, state="terminated")
    past = datetime.now(UTC) - channels.REPORT_HOLDS - timedelta(seconds=1)
    await live.rows(
        "UPDATE channels SET last_seen_at = :at WHERE agent_id = :a RETURNING agent_id", a=old.agent_id, at=past
    )
    await there(0, 2 * MEGABIT_A_SECOND)
    with capture_logs() as lines:
        liar = await there(0, 1 << 60)
    assert await seen() == pytest.approx(3.0, rel=0.1), "one agent's word would shut the cluster's door"
    assert [line["agent_id"] for line in lines if line["event"] == "agent.network_beyond_belief"] == [liar.agent_id]
    await live.change(first, state="terminated")
    assert await seen() == pytest.approx(2.0, rel=0.1)
