"""What users do, from beginning to end: each flow is one promise of Berth, and ends with nothing held."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.fixtures.stack import Person, eventually

_BRIEF = {"shutdown_seconds": 5, "restart_backoff_seconds": 0.1}
# A warning that came twice, before and after an outage, is still one; a letter goes when the outbox is drained.
_BESIDE = {"warning", "notice.sent"}
# In a pool that all share, there may be no room for a moment.
_IN_LINE = {"queued", "admitted"}
# What those flows start in which an agent comes to its end by itself.
DOOMED, IDLE = "doomed", "idle"
TEMPLATES = {
    DOOMED: {"simulation": {"exit_after_seconds": 0.3}, "timings": _BRIEF},
    IDLE: {"timings": {**_BRIEF, "idle_seconds": 0.5, "grace_seconds": 0.5}},
}

# The events of every agent of a flow, in the order in which the agents were asked for; with why, where one ends.
Told = list[list[str]]
_OVER = ("terminated", "cancelled", "failed")
_WITH_REASON = {"draining", *_OVER}
# Takes somebody and the beginning of a project's name: `{name}-1` to `{name}-4` are theirs, and were never used.
Flow = Callable[[Person, str], Awaitable[Told]]


async def one_life(ann: Person, name: str) -> Told:
    """Asked for, used, stopped."""
    agent_id = await ann.start(f"{name}-1")
    await ann.until(agent_id, "running")
    await ann.until_carried(f"{name}-1", "running")
    return await _ended(ann, agent_id)


async def waiting_in_line(ann: Person, name: str) -> Told:
    """A third where two fit: it waits, and is let in; a fourth is taken back while it waits."""
    first, second = await ann.start(f"{name}-1"), await ann.start(f"{name}-2")
    third, fourth = await ann.start(f"{name}-3"), await ann.start(f"{name}-4")
    await ann.until(third, "queued")
    await _stop(ann, fourth)
    await ann.until(fourth, "cancelled")
    await ann.until(second, "running")
    await ann.until(first, "running")
    await _stop(ann, first)
    await ann.until(third, "running")
    await ann.until_carried(f"{name}-3", "running")
    return await _ended(ann, first, second, third, fourth)


async def beginning_anew(ann: Person, name: str) -> Told:
    """A running agent is restarted by its user: the same agent, another attempt."""
    agent_id = await ann.start(f"{name}-1")
    await ann.until(agent_id, "running")
    await ann.until_carried(f"{name}-1", "running")
    answer = await ann.ask("POST", f"/api/agents/{agent_id}/restart", headers={"Idempotency-Key": f"{name} again"})
    assert answer.status_code == 202, answer.text

    async def again() -> bool:
        return (await ann.kinds(agent_id)).count("ready") >= 2

    await eventually(again, "the next attempt", ann.patience)
    await ann.until_carried(f"{name}-1", "running")
    return await _ended(ann, agent_id)


async def warned_and_kept(ann: Person, name: str) -> Told:
    """Warned of an end, kept by its user, then ended when a grace runs out."""
    agent_id = await ann.start(f"{name}-1")
    await ann.until(agent_id, "running")
    await ann.until_carried(f"{name}-1", "running")
    # Longer than anybody here waits: one that is never kept does not come to its end meanwhile.
    await _stop(ann, agent_id, grace=600)

    async def warned() -> bool:
        # By what was told: with its host dead it may be over before an API that comes back can show it draining.
        return "draining" in await ann.kinds(agent_id)

    await eventually(warned, "the agent to be told of its end", ann.patience)

    async def kept() -> bool:
        await ann.ask("POST", f"/api/agents/{agent_id}/keep")
        # What it runs on may die meanwhile, and who was told to go is not made anew.
        return (await ann.agent(agent_id))["state"] in ("running", "terminated")

    await eventually(kept, "the agent to be kept", ann.patience)
    if (await ann.agent(agent_id))["state"] == "terminated":
        return await _told(ann, agent_id)
    await ann.until_carried(f"{name}-1", "running")
    await _stop(ann, agent_id, grace=1)
    return await _told(ann, agent_id)


async def one_after_the_other(ann: Person, name: str) -> Told:
    """Asked for again while the last one is made to leave: the next takes over when it is gone."""
    project = f"{name}-1"
    first = await ann.start(project, key=f"{name} first")
    await ann.until(first, "running")
    order = json.dumps({"agent_id": first, "reason": "maintenance", "grace_seconds": 1})
    typed = ("workflow", "signal", "-w", f"agent/{ann.user_id}/{project}", "--name", "stop", "--input", order)

    async def taken() -> bool:
        try:
            await ann.stack.temporal(*typed)
        except AssertionError:  # no server just now: whoever types it types it again
            return False
        return True

    await eventually(taken, "the operator's order to be taken", ann.patience)
    await ann.until(first, "draining", "terminated")
    second = await ann.start(project, key=f"{name} second")
    await ann.until(second, "running")
    await ann.until_carried(project, "running")
    return await _ended(ann, first, second)


async def at_its_time(ann: Person, name: str) -> Told:
    """Booked for later, and made once when the time comes."""
    body = {"startAt": (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat(), "template": ann.template}
    headers = {"Idempotency-Key": f"{name} booked"}
    booked: dict[str, Any] = {}

    async def heard() -> bool:
        answer = await ann.ask("POST", f"/api/projects/{name}-1/start-agent", json=body, headers=headers)
        booked.update(answer.json())
        return bool(booked["status"] != "pending")

    await eventually(heard, "its booking to be taken", ann.patience)
    # Who is not heard before the time comes is heard after it: past is now.
    assert booked["status"] in ("scheduled", "created", "queued"), booked
    agents: list[str] = []

    async def started() -> bool:
        agents[:] = await theirs()
        return bool(agents)

    async def theirs() -> list[str]:
        every = (await ann.ask("GET", "/api/agents?limit=200")).json()["items"]
        return [each["agentId"] for each in every if each["projectId"] == f"{name}-1"]

    await eventually(started, "its start", ann.patience)
    await ann.until(agents[0], "running")
    await ann.until_carried(f"{name}-1", "running")
    told = await _ended(ann, *agents)
    bookings = (await ann.ask("GET", "/api/scheduled-starts?limit=200")).json()["items"]
    assert "scheduled" not in [each["state"] for each in bookings if each["projectId"] == f"{name}-1"], bookings
    assert await theirs() == agents
    return told


async def failing(ann: Person, name: str) -> Told:
    """It crashes as often as it is begun, until it has failed; its user restarts it, and it fails again."""
    first = await ann.start(f"{name}-1", template=DOOMED)
    await ann.until(first, "failed")
    headers = {"Idempotency-Key": f"{name} again"}
    second, said = "", {}

    async def begun() -> bool:
        nonlocal second, said
        said = (await ann.ask("POST", f"/api/agents/{first}/restart", headers=headers)).json()
        second = str(said.get("agentId") or said.get("agent", {}).get("agentId") or "")
        return bool(second)

    try:
        await eventually(begun, "the next life", ann.patience)
    except AssertionError as late:
        raise AssertionError(f"{late} of {first}, last: {said}") from None
    assert second != first, "the life that failed was said to be there"
    await ann.until(second, "failed")
    # Whether it was usable for a moment is seen only by those who look in that moment.
    return [[kind for kind in kinds if kind not in _IN_LINE | {"ready"}] for kinds in await _told(ann, first, second)]


async def left_alone(ann: Person, name: str) -> Told:
    """Nobody does anything with it, so it is warned and ended."""
    (kinds,) = await _told(ann, await ann.start(f"{name}-1", template=IDLE))
    return [[kind for kind in kinds if kind not in _IN_LINE]]


async def serviced(ann: Person, name: str) -> Told:
    """The pool that it has to itself is to be serviced."""
    agent_id = await ann.start(f"{name}-1")
    await ann.until(agent_id, "running")
    await ann.until_carried(f"{name}-1", "running")
    order = {"pool": ann.template, "reason": "a new kernel"}
    answer = await ann.stack.operator().ask("POST", "/api/admin/maintenance", json=order)
    assert answer.status_code == 202, answer.text
    return await _told(ann, agent_id)


FLOWS: dict[str, Flow] = {
    flow.__name__: flow
    for flow in (
        one_life,
        waiting_in_line,
        beginning_anew,
        warned_and_kept,
        one_after_the_other,
        at_its_time,
        failing,
        left_alone,
        serviced,
    )
}
PROJECTS = 4


async def leave(someone: Person) -> None:
    """Stop whatever of theirs still lives, after a flow that did not come to its end."""
    every = (await someone.ask("GET", "/api/agents?limit=200")).json()["items"]
    await _ended(someone, *(each["agentId"] for each in every if each["state"] not in _OVER))


async def _ended(someone: Person, *agent_ids: str) -> Told:
    """Stop all that still live; all of it as it is told, once nothing of it lives."""
    for each in agent_ids:
        await _stop(someone, each)
    return await _told(someone, *agent_ids)


async def _stop(someone: Person, agent_id: str, grace: float = 0) -> None:
    """Ask until it is answered. Who asks again because no answer came may hear that it is done."""
    answer = await someone.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": grace})
    assert answer.status_code == 202 or answer.json()["code"] == "wrong_state", answer.text


async def _told(someone: Person, *agent_ids: str) -> Told:
    """Without what comes when it comes."""
    for each in agent_ids:
        await someone.until(each, *_OVER)
    return [_kinds(await someone.events(each)) for each in agent_ids]


def _kinds(events: Sequence[Mapping[str, Any]]) -> list[str]:
    told = [(event["kind"].removeprefix("agent."), event["reason"]) for event in events]
    named = [(kind, f"{kind}: {reason}" if kind in _WITH_REASON else kind) for kind, reason in told]
    return [name for kind, name in named if kind not in _BESIDE]
