"""The agents' socket: what is durable, who wins, and what reaches the workflow."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.live import intake
from core.db.repositories import agents
from core.db.repositories.channels import Superseded
from core.domain.lifecycle import AgentState
from core.domain.recovery import FailureKind
from core.domain.wire import AgentStatus, Execute, Ready
from core.tokens import hash_token
from tests.fakes.agent import FakeAgent
from tests.fixtures.live import Berthed, LiveStage, eventually, raise_stage


async def starting(live: LiveStage) -> Berthed:
    return await live.agent(await live.user("ann"), AgentState.STARTING)


async def row(live: LiveStage, agent: Berthed) -> dict[str, Any]:
    return (await live.rows("SELECT * FROM channels WHERE agent_id = :a", a=agent.agent_id))[0]


async def test_ready_reaches_the_workflow_once_and_is_acknowledged_when_durable(live: LiveStage) -> None:
    agent = await starting(live)
    async with live.fake(agent).online() as fake:
        await fake.ready()
        await fake.heard_all()
        assert (await row(live, agent))["ready_at"] is not None
        assert (await row(live, agent))["last_seq"] == 1
        await eventually(lambda: (agent.agent_id, 1) in live.lives.readied)
        assert live.lives.readied.count((agent.agent_id, 1)) == 1


async def test_ready_is_signalled_again_until_temporal_is_back(live: LiveStage) -> None:
    agent = await starting(live)
    live.lives.away = 2
    async with live.fake(agent).online() as fake:
        await fake.ready()
        await eventually(lambda: (agent.agent_id, 1) in live.lives.readied)
    assert live.lives.away == 0


async def test_ready_that_was_never_signalled_is_when_the_agent_comes_back(live: LiveStage) -> None:
    agent = await starting(live)
    async with live.fake(agent).online() as fake:
        await fake.ready()
        await fake.heard_all()
        await eventually(lambda: (agent.agent_id, 1) in live.lives.readied)
        # The process that was to signal died before it did.
        live.lives.readied.clear()
        await fake.cut()
        await fake.connect()
        await eventually(lambda: (agent.agent_id, 1) in live.lives.readied)
        await live.change(agent, state="running")
        live.lives.readied.clear()
        await fake.cut()
        await fake.connect()
        await fake.status("page_ready")
        await fake.heard_all()
        assert live.lives.readied == []


async def test_what_was_not_acknowledged_is_sent_again_and_takes_effect_once(live: LiveStage) -> None:
    agent = await starting(live)
    async with live.fake(agent).online() as fake:
        fake.mute = True
        await fake.ready()
        await fake.status("task_begun")
        await eventually(lambda: _seq(live, agent, 2))
        await fake.cut()
        fake.mute = False
        await fake.status("task_over")
        await fake.connect()
        assert fake.resumed_from == [0, 2]
        await fake.heard_all()
        assert (await row(live, agent))["last_seq"] == 3
        # One that comes twice although it was acknowledged is acknowledged again, and nothing goes back.
        fake.acknowledged = -1
        again = AgentStatus(agent_id=agent.agent_id, seq=2, at=datetime.now(UTC), status="task_begun")
        await fake.raw(again.model_dump_json(by_alias=True))
        await fake.until(lambda fake: fake.acknowledged == 3)
        assert (await row(live, agent))["last_seq"] == 3


async def _seq(live: LiveStage, agent: Berthed, number: int) -> bool:
    return bool((await row(live, agent))["last_seq"] == number)


async def test_agent_process_that_counts_from_the_start_again_is_still_heard(live: LiveStage) -> None:
    agent = await starting(live)
    async with live.fake(agent).online() as first:
        for _ in range(5):
            await first.status("x")
        await first.heard_all()
    async with live.fake(agent).online() as second:
        assert second.resumed_from == [0]
        await second.ready()
        await second.heard_all()
    assert (await row(live, agent))["ready_at"] is not None


async def test_second_socket_wins_also_on_another_replica(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent, replica=0).online() as old, live.fake(agent, replica=1).online() as new:
        await old.until(lambda fake: fake.closed_with == 4409)
        answer = await live.execute(agent, {"command": "state"}, replica=0)
        assert answer.status_code == 200
        assert (len(old.runs), len(new.runs)) == (0, 1)


async def test_late_message_through_the_old_socket_changes_nothing(live: LiveStage) -> None:
    agent = await starting(live)
    async with live.db.transaction() as session:
        who = await agents.get(session, agent.agent_id)
    assert who is not None
    older, newer = (app.state.live.intake for app in live.apps)
    first = await older.online(who, hash_token(agent.token), "one", 1)
    second = await newer.online(who, hash_token(agent.token), "two", 1)
    late = Ready(agent_id=agent.agent_id, seq=1, at=datetime.now(UTC), seconds=1)
    with pytest.raises(Superseded):
        await older.take(who, first.epoch, late)
    assert (await row(live, agent))["ready_at"] is None
    assert (agent.agent_id, 1) not in live.lives.readied
    assert await newer.take(who, second.epoch, late) == 1


async def test_third_unhealthy_report_in_a_row_is_a_failure(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    failures = live.lives.failures
    async with live.fake(agent).online() as fake:
        for status in ("unhealthy", "unhealthy", "healthy", "unhealthy", "starting", "unhealthy", "healthy"):
            await _beat(live, agent, fake, status)
        assert [one for one in failures if one.agent_id == agent.agent_id] == []
        for number in range(3):
            await asyncio.sleep(0)
            await _beat(live, agent, fake, "unhealthy", f"browser gone {number}")
        await eventually(lambda: [one for one in failures if one.agent_id == agent.agent_id])
    (failure,) = [one for one in failures if one.agent_id == agent.agent_id]
    assert (failure.kind, failure.attempt, failure.detail) == (FailureKind.HEALTH, 1, "browser gone 2")
    assert failure.at is None


async def _beat(live: LiveStage, agent: Berthed, fake: FakeAgent, status: str, detail: str = "") -> None:
    """Send a report and wait until it is stored; reports with one status count once a second."""
    before = (await row(live, agent))["last_seen_at"]
    async with asyncio.timeout(5):
        while (await row(live, agent))["last_seen_at"] == before:
            await fake.beat(status, detail)
            await asyncio.sleep(0.1)


async def test_agent_is_heard_by_the_databases_clock_whatever_that_of_the_api_says(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await live.agent(await live.user("ann"))
    monkeypatch.setattr(intake, "now", lambda: datetime.now(UTC) - timedelta(minutes=5))
    heard = "SELECT last_seen_at > now() - interval '1 minute' AS lately FROM channels WHERE agent_id = :a"
    async with live.fake(agent).online() as fake:
        assert await live.rows(heard, a=agent.agent_id) == [{"lately": True}]
        await live.rows("UPDATE channels SET last_seen_at = now() - interval '1 hour' RETURNING 1")
        await _beat(live, agent, fake, "healthy")
        assert await live.rows(heard, a=agent.agent_id) == [{"lately": True}]
        await live.rows("UPDATE channels SET last_seen_at = now() - interval '1 hour' RETURNING 1")
        await fake.ready()
        await fake.heard_all()
        assert await live.rows(heard, a=agent.agent_id) == [{"lately": True}]


async def test_agent_silent_on_an_open_socket_fails_its_health_checks(live: LiveStage) -> None:
    timings = live.settings.timings.model_copy(update={"heartbeat_seconds": 0.1})
    impatient = live.settings.model_copy(update={"timings": timings})
    # Of others that are as silent it would be one of many.
    await live.rows("DELETE FROM channels RETURNING 1")
    agent = await live.agent(await live.user("ann"))
    async with raise_stage(live.url, impatient, count=1) as other, other.fake(agent).online() as fake:
        await fake.ready()
        await eventually(lambda: other.lives.failures)
    assert other.lives.failures[0].kind is FailureKind.HEALTH
    assert "no heartbeat" in other.lives.failures[0].detail


async def test_agent_that_is_silent_among_many_is_left_to_the_reaper(live: LiveStage) -> None:
    """Sockets that all hang at once say something of the way, and nothing of those who are at its end."""
    crowd = [await live.agent(await live.user(f"crowd{number}")) for number in range(6)]
    hears = live.apps[0].state.live.intake
    for each in crowd:
        async with live.db.transaction() as session:
            found = await agents.get(session, each.agent_id)
        assert found is not None
        who, epoch = found, (await hears.online(found, hash_token(each.token), "one", 1)).epoch
    await live.rows("UPDATE channels SET ready_at = now() RETURNING 1")
    await live.rows("UPDATE channels SET last_seen_at = now() - interval '1 hour' RETURNING 1")
    for _ in range(3):
        await hears.missed(who, epoch, 60)
    await live.rows("UPDATE channels SET last_seen_at = now() WHERE agent_id <> :a RETURNING 1", a=who.agent_id)
    for _ in range(3):
        await hears.missed(who, epoch, 90)

    def told() -> list[str]:
        return [failure.detail for failure in live.lives.failures if failure.agent_id == who.agent_id]

    await eventually(told)
    assert told() == ["no heartbeat for 90 s on an open channel"]


async def test_viewer_at_work_keeps_the_agent_from_being_idle(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    query = "SELECT last_activity_at AS at FROM agents WHERE agent_id = :a"
    before = (await live.rows(query, a=agent.agent_id))[0]["at"]
    async with live.fake(agent).online() as fake:
        await fake.status("viewer_active")
        await fake.heard_all()
    assert (await live.rows(query, a=agent.agent_id))[0]["at"] > before


async def test_result_that_json_allows_and_postgres_does_not_is_stored_mended(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))

    async def strange(_: Any) -> dict[str, Any]:
        return {"text": "a\x00b", "big": 10**400, "k\x00": [1.5, None, True]}

    async with live.fake(agent, execute=strange).online() as fake:
        answer = await live.execute(agent, {"command": "state"})
        assert answer.json()["result"] == {"text": "a\ufffdb", "big": None, "k\ufffd": [1.5, None, True]}
        await fake.heard_all()


def _told(fake: FakeAgent, kind: str, **fields: Any) -> str:
    """A numbered message that no model of ours would write."""
    head = {"type": kind, "agentId": fake.agent_id, "seq": fake.next_seq, "at": datetime.now(UTC).isoformat()}
    fake.next_seq += 1
    return json.dumps(head | fields)


async def test_half_a_character_from_a_page_costs_neither_the_command_nor_the_channel(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))

    async def half(order: Execute) -> None:
        result = {"text": "a\ud83d", "\udc00": ["\ud83d\ude00"]}
        await fake.raw(_told(fake, "command_result", commandId=order.command_id, result=result))

    fake = live.fake(agent, execute=half)
    async with fake.online():
        for _ in range(12):
            answer = await live.execute(agent, {"command": "state"})
            assert answer.json()["result"] == {"text": "a\ufffd", "\ufffd": ["\U0001f600"]}
        await fake.until(lambda fake: fake.acknowledged == 12)


async def test_result_that_cannot_be_read_ends_its_command_and_is_not_sent_again_for_ever(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))

    async def senseless(order: Execute) -> None:
        await fake.raw(_told(fake, "command_result", commandId=order.command_id, result="no object"))

    fake = live.fake(agent, execute=senseless)
    async with fake.online():
        answer = await live.execute(agent, {"command": "state"})
        assert (answer.status_code, answer.json()["code"]) == (502, "browser_failed")
        await fake.until(lambda fake: fake.acknowledged == 1)
        await fake.raw(_told(fake, "agent_status", status="x" * 65))
        await fake.until(lambda fake: fake.acknowledged == 2)
        await fake.raw(_told(fake, "ready", agentId="another", seconds="?"))
        fake.next_seq -= 1
        await fake.status("fine")
        await fake.heard_all()


async def test_shutdown_order_reaches_the_agent_with_its_reason(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent).online() as fake:
        await live.rows(
            "INSERT INTO commands (agent_id, command_id, attempt, kind, name, parameters, deadline_at) VALUES "
            "(:a, 'bye', 1, 'graceful_shutdown', 'graceful_shutdown', "
            """'{"reason": "inactivity", "withinSeconds": 30}', now() + interval '1 minute') """
            "RETURNING pg_notify('berth_commands', :a)",
            a=agent.agent_id,
        )
        await fake.until(lambda fake: bool(fake.shutdowns))
        assert (fake.shutdowns[0].reason, fake.shutdowns[0].within_seconds) == ("inactivity", 30)
        state = "SELECT state FROM commands WHERE agent_id = :a"
        await eventually(lambda: _is(live, state, agent, "done"))


async def _is(live: LiveStage, query: str, agent: Berthed, value: str) -> bool:
    return bool(next(iter((await live.rows(query, a=agent.agent_id))[0].values())) == value)


async def test_agent_without_a_socket_registers_and_reports_by_http(live: LiveStage) -> None:
    agent, other = await starting(live), await starting(live)
    headers = {"X-Agent-Token": agent.token}
    base = live.replicas[0]
    health = {"status": "healthy", "uptime": 1, "memory": 1, "browserActive": True, "channel": "connecting"}
    beat = {"agentId": agent.agent_id, "health": health}
    early = await live.http.post(f"{base}/agent-heartbeat", json=beat, headers=headers)
    assert early.status_code == 409
    body = {"agentId": agent.agent_id, "attempt": 1}
    answer = await live.http.post(f"{base}/agent-register", json=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"type": "ack", "seq": 0})
    assert (await live.http.post(f"{base}/agent-heartbeat", json=beat, headers=headers)).status_code == 200
    await eventually(lambda: (agent.agent_id, 1) in live.lives.readied)
    for path, message in (
        ("register", {"agentId": other.agent_id}),
        ("heartbeat", {**beat, "agentId": other.agent_id}),
    ):
        for token, status in ((agent.token, 403), ("wrong", 401)):
            refused = await live.http.post(f"{base}/agent-{path}", json=message, headers={"X-Agent-Token": token})
            assert refused.status_code == status
    late = await live.http.post(f"{base}/agent-register", json={**body, "attempt": 2}, headers=headers)
    assert late.status_code == 401


async def test_what_an_agent_tells_is_logged_without_what_lets_one_into_a_page(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    with capture_logs() as lines:
        async with live.fake(agent).online() as fake:
            await fake.status("page_crashed", "https://shop.test/in?code=secret crashed 11")
            await fake.heard_all()
    (said,) = [line for line in lines if line["event"] == "agent.status"]
    assert said["detail"] == "https://shop.test/in crashed 11"


async def test_browser_that_an_agent_replaced_is_told_to_its_user_and_no_more_often_than_anybody_reads(
    live: LiveStage,
) -> None:
    agent = await live.agent(await live.user("ann"))
    told = "SELECT kind, state, reason, detail FROM events WHERE agent_id = :a ORDER BY seq"
    before = live.apps[0].state.live.intake.reopened["crash"]
    async with live.fake(agent).online() as fake:
        await fake.status("browser_reopened", "it crashed\x00", end="crash")
        await fake.status("browser_reopened", "who knows", end=["never heard of"])
        await fake.heard_all()
        first, second = await live.rows(told, a=agent.agent_id)
        assert (first["kind"], first["state"], first["reason"]) == ("browser.reopened", "running", "crash")
        assert first["detail"] == {"detail": "it crashed\ufffd"}
        assert (second["reason"], second["detail"]) == (None, {"detail": "who knows"})
        assert live.apps[0].state.live.intake.reopened["crash"] == before + 1
        for _ in range(intake.REOPENED_AT_MOST):
            await fake.status("browser_reopened", end="crash")
        await fake.heard_all()
        assert len(await live.rows(told, a=agent.agent_id)) == intake.REOPENED_AT_MOST


async def test_browser_replaced_in_a_life_that_is_over_leaves_its_log_alone(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent).online() as fake:
        await live.change(agent, state="restarting")
        await fake.status("browser_reopened", end="crash")
        await fake.heard_all()
    assert await live.rows("SELECT * FROM events WHERE agent_id = :a", a=agent.agent_id) == []
