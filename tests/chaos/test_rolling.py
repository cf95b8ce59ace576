"""A new release of the worker over living agents, and back: nobody notices.

What it proves: lives in each state, begun by workers that know none of the guarded changes, are gone on with by today's
workers and end as they would have, through the real stack, with the old worker killed and not asked. What it does not:
the release before is today's code with every `workflow.patched` answered no, so a change that nobody guarded looks the
same on both sides. That one is caught by the recorded histories (`make check`).
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.release import BEFORE, TODAY
from tests.chaos.rolling import Rolling, rolling
from tests.fixtures.stack import Person, eventually

PROJECTS = ("runs", "drains", "breaks", "starts", "waits", "later", "changed")
SLOW = {"simulation": {"start_seconds": 20}}


async def start(someone: Person, project: str, **body: Any) -> str:
    answer = await someone.ask(
        "POST", f"/api/projects/{project}/start-agent", json=body, headers={"Idempotency-Key": project}
    )
    told = answer.json()
    return str(told["agentId"] if "agentId" in told else told["agent"]["agentId"])


async def running(someone: Person, project: str) -> str:
    agent_id = await start(someone, project)
    await someone.until(agent_id, "running")
    return agent_id


async def broken(stack: Rolling, someone: Person, agent_id: str, project: str) -> None:
    """Tell its workflow of a crash; it pauses before it begins again."""
    report = {"agent_id": agent_id, "attempt": 1, "kind": "crash", "detail": "told by a test"}
    of = ["-w", f"agent/{someone.user_id}/{project}"]
    await stack.temporal("workflow", "signal", *of, "--name", "failed", "--input", json.dumps(report))
    await someone.until(agent_id, "restarting")


async def stumbles(stack: Rolling, someone: Person, project: str) -> bool:
    """Whether the worker cannot go on with a life, and tries again and again."""
    told = await stack.temporal("workflow", "describe", "-w", f"agent/{someone.user_id}/{project}", "--output", "json")
    return int(json.loads(told).get("pendingWorkflowTask", {}).get("attempt", 1)) > 1


@pytest.mark.timeout(300)
async def test_living_agents_survive_another_release_of_the_worker_and_the_way_back(tmp_path: Path) -> None:
    config = tmp_path / "berth.yaml"
    config.write_text(json.dumps({"templates": {"slow": SLOW}}))
    short = {"TIMINGS__GRANT_TICK_SECONDS": "2", "TIMINGS__REAP_SECONDS": "5", "TIMINGS__SNAPSHOT_SECONDS": "0.5"}
    long = {"TIMINGS__GRACE_SECONDS": "600", "TIMINGS__RESTART_BACKOFF_SECONDS": "20"}
    async with rolling(tmp_path / "data", CONFIG=str(config), POOL__CAPACITY="5", **short, **long) as stack:
        ann = await stack.user("ann", *PROJECTS, tier="enterprise")
        runs, drains = await running(ann, "runs"), await running(ann, "drains")
        breaks, changed = await running(ann, "breaks"), await running(ann, "changed")
        starts = await start(ann, "starts", template="slow")
        waits = await start(ann, "waits")
        due = datetime.now(UTC) + timedelta(seconds=15)
        assert (await ann.ask("POST", "/api/projects/later/start-agent", json={"startAt": due.isoformat()})).is_success
        for agent_id in (drains, changed):
            await ann.stop(agent_id, grace=600)
            await ann.until(agent_id, "draining")
        await broken(stack, ann, breaks, "breaks")
        await ann.until(waits, "queued")
        await ann.until(starts, "starting")

        await stack.roll(TODAY)
        assert (await ann.agent(runs))["state"] == "running"
        assert (await ann.agent(waits))["state"] == "queued"
        assert (await ann.agent(drains))["state"] == "draining"
        await ann.until(breaks, "running")
        await ann.until(starts, "running")
        # Told to go sooner than it was told before: a change that the release before does not know.
        await ann.stop(changed, grace=500)
        await eventually(lambda: hastened(ann, changed), "the shortened grace to be told")

        await stack.roll(BEFORE)
        await ann.stop(runs)
        await ann.until(runs, "terminated")
        await ann.until(waits, "running")  # the slot that came free is granted as ever
        await ann.stop(drains, grace=0)
        await ann.until(drains, "terminated")
        later = await scheduled(ann)
        await ann.until(later, "running")
        # What has taken a way that this release does not know stands still, and loses nothing.
        await ann.stop(changed, grace=0)
        await eventually(lambda: stumbles(stack, ann, "changed"), "the changed life to stand still")
        assert (await ann.agent(changed))["state"] == "draining"

        await stack.roll(TODAY)
        await ann.until(changed, "terminated")
        for agent_id in (breaks, starts, waits, later):
            await ann.stop(agent_id)
            await ann.until(agent_id, "terminated")
        # Of the restarts there is the one that was told, and nothing was begun twice.
        assert (await ann.agent(breaks))["restartCount"] == 1
        for agent_id in (runs, drains, starts, waits, later, changed):
            assert (await ann.agent(agent_id))["restartCount"] == 0


async def hastened(someone: Person, agent_id: str) -> bool:
    return (await someone.kinds(agent_id)).count("warning") > 1


async def scheduled(someone: Person) -> str:
    """The agent of the only start to come, once it was made."""
    found: list[str | None] = [None]

    async def made() -> bool:
        (start,) = (await someone.ask("GET", "/api/scheduled-starts")).json()["items"]
        found[0] = start.get("agentId")
        return str(start["state"]) == "started"

    await eventually(made, "the scheduled start to be made")
    assert found[0] is not None
    return found[0]
