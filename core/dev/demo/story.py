"""The demo's story: two users, room for one agent, and one whole life from asked for to stopped."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.dev.demo.person import Person
from core.dev.demo.stage import NAME, TEA, Stage
from core.dev.demo.steps import Step, Steps, Unexpected

GRACE_SECONDS = 5.0
_READY_SECONDS = 120
_COMMAND_SECONDS = 60
_TASK_SECONDS = 150
_STOP_SECONDS = 60
_PNG, _PDF = b"\x89PNG\r\n\x1a\n", b"%PDF-"


async def play(stage: Stage, steps: Steps) -> Person:
    """Play it. Raises `StepFailed`; returns the second user, whose agent runs then."""
    control = stage.logs("api", "worker")
    async with steps.step("Two users, each with a project", seconds=20, logs=control):
        first, second = await stage.make("first", "first-shop"), await stage.make("second", "second-shop")
    await _start(stage, steps, first)
    await _use(stage, steps, first)
    await _wait_in_line(stage, steps, second)
    await _stop(stage, steps, first, second)
    await _admitted(stage, steps, second)
    return second


async def _start(stage: Stage, steps: Steps, person: Person) -> None:
    control = stage.logs("api", "worker", "host")
    async with steps.step(f"{person.user} asks for an agent", seconds=45, logs=control) as step:
        answer = await person.start()
        if answer["status"] != "created":
            raise Unexpected(f"the answer was {answer['status']}: {answer.get('reason')}")
        step.outcome = person.agent_id
    await _ready(stage, steps, person)


async def _ready(stage: Stage, steps: Steps, person: Person) -> None:
    async with steps.step(
        f"{person.user}'s agent is usable",
        seconds=_READY_SECONDS,
        logs=stage.logs("worker", "host", agent_id=person.agent_id),
    ) as step:
        agent = await person.until("running", lambda seen: _show_state(step, seen))
        took = _at(agent["readyAt"]) - _at(agent["startedAt"])
        step.outcome = f"desktop and browser, {took.total_seconds():.1f} s after its start"


async def _use(stage: Stage, steps: Steps, person: Person) -> None:
    logs = stage.logs("api", agent_id=person.agent_id)
    async with steps.step("It opens the demo shop", seconds=_COMMAND_SECONDS, logs=logs) as step:
        page = await person.execute("navigate", url=f"{stage.shop.url}/")
        step.outcome = f"{page['url']} ({page['title']})"
    async with steps.step(
        "It fills in the order form and sends it, steered by the scripted model", seconds=_TASK_SECONDS, logs=logs
    ) as step:
        task = await person.execute("run_task", _TASK_SECONDS - 10, task=f"Order {TEA} for {NAME}")
        orders = stage.shop.book.orders
        if len(orders) != 1 or (orders[0].name, orders[0].tea) != (NAME, TEA):
            raise Unexpected(f"the shop has the orders {orders}; the task ended so: {task}")
        step.outcome = f"the shop has order {orders[0].number}, {orders[0].tea} for {orders[0].name}"
    for command, name, magic in (("screenshot", "order.png", _PNG), ("pdf", "order.pdf", _PDF)):
        async with steps.step(f"It makes a {command}", seconds=_COMMAND_SECONDS, logs=logs) as step:
            path: Path = stage.folder / name
            size = await person.fetch(await person.execute(command), path, magic)
            step.outcome = f"{path} ({size // 1024 or 1} KiB)"


async def _wait_in_line(stage: Stage, steps: Steps, person: Person) -> None:
    async with steps.step(
        f"{person.user} asks for an agent, but there is room for one only",
        seconds=45,
        logs=stage.logs("api", "worker"),
    ) as step:
        answer = await person.start()
        if answer["status"] != "queued":
            raise Unexpected(f"the answer was {answer['status']} although the pool is full")
        step.outcome = f"queued at place {answer['position']}, wait about {answer['estimatedWaitMinutes']} min"


async def _stop(stage: Stage, steps: Steps, first: Person, second: Person) -> None:
    async with steps.step(
        f"{first.user}'s agent is warned and stopped",
        seconds=GRACE_SECONDS + _STOP_SECONDS,
        logs=stage.logs("worker", "host", agent_id=first.agent_id),
    ) as step:
        began = time.monotonic()
        await first.stop(GRACE_SECONDS)
        agent = await first.until("draining")
        await _count_down(steps, step, agent, second)
        agent = await first.until("terminated")
        warned = GRACE_SECONDS - (time.monotonic() - began)
        if warned > 0:
            raise Unexpected(f"it ended {warned:.1f} s before its grace did")
        step.outcome = f"gone {-warned:.1f} s after its grace of {GRACE_SECONDS:g} s ({agent['reason']})"


async def _count_down(steps: Steps, step: Step, agent: dict[str, Any], second: Person) -> None:
    """Show the seconds that are left, as the agent's own deadline says; nobody else gets its place meanwhile."""
    ends = _at(agent["deadlineAt"])
    while (left := (ends - datetime.now(UTC)).total_seconds()) > 0:
        waiting = await second.agent()
        if waiting["state"] != "queued":
            raise Unexpected(f"{second.user}'s agent is {waiting['state']} while the place is taken")
        line = f"warning: stops in {left:.0f} s; {second.user} waits at place {waiting['position']}"
        if not step.now(line):
            steps.note(line)
        await asyncio.sleep(min(left, 1.0))


async def _admitted(stage: Stage, steps: Steps, person: Person) -> None:
    async with steps.step(
        f"{person.user} is admitted", seconds=_STOP_SECONDS, logs=stage.logs("worker", "host")
    ) as step:
        began = time.monotonic()
        while (agent := await person.agent())["state"] in {"requested", "queued"}:
            _show_state(step, agent)
            await asyncio.sleep(0.05)
        step.outcome = f"{time.monotonic() - began:.1f} s after the place was free"
    await _ready(stage, steps, person)
    async with steps.step(
        "It opens the demo shop", seconds=_COMMAND_SECONDS, logs=stage.logs("api", agent_id=person.agent_id)
    ):
        await person.execute("navigate", url=f"{stage.shop.url}/")


def _show_state(step: Step, agent: dict[str, Any]) -> None:
    reason = f" ({agent['reason']})" if agent["reason"] else ""
    step.now(f"{agent['userId']}'s agent is {agent['state']}{reason}")
    if agent["state"] in {"restarting", "failed"}:
        raise Unexpected(f"the agent is {agent['state']}{reason}")


def _at(moment: str) -> datetime:
    return datetime.fromisoformat(moment)
