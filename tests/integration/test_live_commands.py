"""Commands from users to agents, over two API replicas."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from core.domain.lifecycle import AgentState
from core.domain.wire import CommandFault, Execute
from tests.fakes.agent import Answer
from tests.integration.live_stage import Stage, eventually, fresh_stage

STATE: dict[str, Any] = {"command": "state"}


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with fresh_stage() as stage:
        yield stage


async def test_command_is_executed_through_the_replica_that_does_not_hold_the_socket(stage: Stage) -> None:
    agent = await stage.agent(await stage.user("ann"))
    async with stage.fake(agent, replica=0).online() as fake:
        body = {"command": "navigate", "parameters": {"url": "https://example.org/"}}
        answer = await stage.execute(agent, body, replica=1)
        assert answer.status_code == 200, answer.text
        assert answer.json()["result"] == {"did": "navigate", "with": {"url": "https://example.org/"}}
        assert fake.runs == [answer.json()["commandId"]]
    events = await stage.rows("SELECT kind, detail FROM events WHERE agent_id = :a", a=agent.agent_id)
    assert [event["kind"] for event in events] == ["command.executed"]
    assert events[0]["detail"]["commandId"] == answer.json()["commandId"]


async def test_same_key_runs_once_and_answers_alike_also_at_the_same_time(stage: Stage) -> None:
    agent = await stage.agent(await stage.user("ann"))
    async with stage.fake(agent).online() as fake:
        answers = await asyncio.gather(*(stage.execute(agent, STATE, replica=n % 2, key="one/key") for n in range(12)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        assert fake.runs == ["one/key"]
        other = await stage.execute(agent, {"command": "scroll"}, key="one/key")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    await stage.change(agent, state="terminated", token_hash=None)
    late = await stage.execute(agent, STATE, key="one/key")
    assert late.text == answers[0].text


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (CommandFault.BUSY, 409),
        (CommandFault.INVALID_PARAMETERS, 422),
        (CommandFault.NOT_FOUND, 422),
        (CommandFault.REFUSED_ADDRESS, 422),
        (CommandFault.BROWSER_FAILED, 502),
        (CommandFault.TIMED_OUT, 504),
    ],
)
async def test_fault_of_the_agent_is_the_code_of_the_problem(stage: Stage, fault: CommandFault, status: int) -> None:
    async def refuse(_: Execute) -> Answer:
        return fault

    agent = await stage.agent(await stage.user("ann"))
    async with stage.fake(agent, execute=refuse).online():
        answer = await stage.execute(agent, STATE)
    assert (answer.status_code, answer.json()["code"]) == (status, fault.value)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_slow_command_times_out_goes_on_and_can_be_looked_at(stage: Stage) -> None:
    go = asyncio.Event()

    async def slow(order: Execute) -> Answer:
        await go.wait()
        return {"late": True}

    agent = await stage.agent(await stage.user("ann"))
    async with stage.fake(agent, execute=slow).online():
        answer = await stage.execute(agent, {**STATE, "timeoutSeconds": 0.3}, key="slow")
        assert (answer.status_code, answer.json()["code"]) == (504, "command_timeout")
        url = f"{stage.replicas[1]}/api/agents/{agent.agent_id}/commands/slow"
        headers = stage.bearer(agent.user_id)
        assert (await stage.http.get(url, headers=headers)).json()["state"] == "sent"
        go.set()
        again = await stage.execute(agent, STATE, key="slow", replica=1)
        assert again.json()["result"] == {"late": True}
        assert (await stage.http.get(url, headers=headers)).json()["state"] == "done"
        assert (await stage.http.delete(url, headers=headers)).status_code == 204


async def test_cancel_reaches_the_agent_and_ends_the_wait(stage: Stage) -> None:
    async def never(_: Execute) -> Answer:
        return None

    agent = await stage.agent(await stage.user("ann"))
    async with stage.fake(agent, execute=never).online() as fake:
        waiting = asyncio.create_task(stage.execute(agent, STATE, key="c/1"))
        await fake.until(lambda fake: fake.runs == ["c/1"])
        url = f"{stage.replicas[1]}/api/agents/{agent.agent_id}/commands/c%2F1"
        stranger = await stage.http.delete(url, headers=stage.bearer(await stage.user("eve")))
        assert stranger.status_code == 404
        assert (await stage.http.delete(url, headers=stage.bearer(agent.user_id))).status_code == 202
        answer = await waiting
        assert (answer.status_code, answer.json()["code"]) == (409, "cancelled")
        assert fake.cancels == ["c/1"]


async def test_command_sent_into_a_broken_socket_is_sent_again_and_run_once(stage: Stage) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def wait(_: Execute) -> Answer:
        started.set()
        await go.wait()
        return {"ok": True}

    agent = await stage.agent(await stage.user("ann"))
    fake = stage.fake(agent, replica=0, execute=wait)
    async with fake.online():
        waiting = asyncio.create_task(stage.execute(agent, STATE, key="k", replica=1))
        await started.wait()
        await fake.cut()
        go.set()
        await eventually(lambda: fake.unacknowledged)
        fake.url = stage.replicas[1].replace("http", "ws") + "/ws/agent"
        await fake.connect()
        assert (await waiting).json()["result"] == {"ok": True}
        await fake.heard_all()
        assert fake.runs == ["k"]
    events = await stage.rows("SELECT kind FROM events WHERE agent_id = :a", a=agent.agent_id)
    assert len(events) == 1


async def test_command_of_an_agent_that_ends_is_answered_at_once(stage: Stage) -> None:
    async def never(_: Execute) -> Answer:
        return None

    agent = await stage.agent(await stage.user("ann"))
    async with stage.fake(agent, execute=never).online() as fake:
        waiting = asyncio.create_task(stage.execute(agent, STATE))
        await fake.until(lambda fake: bool(fake.runs))
        await stage.change(agent, state="failed", token_hash=None)
        await stage.rows("SELECT pg_notify('berth_channel', :a)", a=agent.agent_id)
        answer = await asyncio.wait_for(waiting, 3)
        assert (answer.status_code, answer.json()["code"]) == (409, "shutting_down")
        await fake.until(lambda fake: fake.closed_with == 4401)


@pytest.mark.parametrize("state", [s for s in AgentState if s is not AgentState.RUNNING])
async def test_agent_that_is_not_running_takes_no_commands(stage: Stage, state: AgentState) -> None:
    agent = await stage.agent(await stage.user("ann"), state)
    answer = await stage.execute(agent, STATE)
    assert (answer.status_code, answer.json()["code"]) == (409, "agent_not_ready")
    assert await stage.rows("SELECT 1 FROM commands WHERE agent_id = :a", a=agent.agent_id) == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"command": "dance"}, "unknown_command"),
        ({"command": "navigate"}, "invalid_parameters"),
        ({"command": "navigate", "parameters": {"url": "https://x.example", "colour": 1}}, "invalid_parameters"),
        ({"command": "input", "parameters": {"selector": "#a", "text": "a\x00b"}}, "invalid_parameters"),
        ({"command": "state", "timeoutSeconds": 0}, "invalid_request"),
        ({"command": "state", "surprise": 1}, "invalid_request"),
    ],
)
async def test_bad_command_is_refused_with_its_reason(stage: Stage, body: dict[str, Any], code: str) -> None:
    agent = await stage.agent(await stage.user("ann"))
    answer = await stage.execute(agent, body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


async def test_stranger_has_no_such_agent(stage: Stage) -> None:
    agent = await stage.agent(await stage.user("ann"))
    eve = await stage.user("eve")
    answer = await stage.execute(agent, STATE, user_id=eve)
    assert answer.status_code == 404
    url = f"{stage.replicas[0]}/api/agents/{agent.agent_id}/commands/x"
    assert (await stage.http.get(url, headers=stage.bearer(eve))).status_code == 404


async def test_thirty_third_open_command_is_told_to_wait(stage: Stage) -> None:
    async def never(_: Execute) -> Answer:
        return None

    agent = await stage.agent(await stage.user("ann"))
    async with stage.fake(agent, execute=never).online():
        body = {**STATE, "timeoutSeconds": 0.05}
        for _ in range(32):
            assert (await stage.execute(agent, body)).status_code == 504
        answer = await stage.execute(agent, body)
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_requests")
