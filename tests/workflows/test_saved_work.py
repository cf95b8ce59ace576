"""What the end of a life tells: the work that was saved, and all that was used."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from activities import reaping
from core.db.repositories import artefacts, commands
from core.db.repositories.commands import Asked
from core.domain.lifecycle import AgentState
from core.domain.orders import AbandonOrder
from core.domain.recovery import FailureKind
from core.domain.wire import ZIP, CommandFault, saved_work_id
from core.runtime.base import Usage
from tests.fixtures.orphans import orphaned
from tests.fixtures.stage import Stage

TELL = "UPDATE channels SET health = CAST(:told AS jsonb) WHERE agent_id = :a AND attempt = :n"


async def of_two_attempts(stage: Stage, first: str, second: str) -> str:
    """Id of an agent that runs again after a crash, and what each attempt has said of its health."""
    agent_id = await stage.started()
    await stage.sql(TELL, a=agent_id, n=1, told=first)
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.sql(TELL, a=agent_id, n=2, told=second)
    return agent_id


class Given:
    """Tasks of an agent, by what comes of them."""

    def __init__(self, stage: Stage, agent_id: str, attempt: int = 1) -> None:
        self.stage, self.agent_id, self.attempt = stage, agent_id, attempt

    async def unsent(self, command_id: str, name: str = "run_task") -> None:
        at = datetime.now(UTC)
        asked = Asked(
            agent_id=self.agent_id,
            attempt=self.attempt,
            command_id=command_id,
            name=name,
            parameters={},
            deadline_at=at + timedelta(hours=1),
        )
        async with self.stage.db.transaction() as session:
            await commands.submit(session, asked, at)

    async def sent(self, command_id: str, name: str = "run_task") -> None:
        await self.unsent(command_id, name)
        async with self.stage.db.transaction() as session:
            await commands.claim(session, self.agent_id, self.attempt, 1, datetime.now(UTC), 32)

    async def posted(self, command_id: str) -> None:
        await self.unsent(command_id)
        async with self.stage.db.transaction() as session:
            assert await commands.claim_one(session, self.agent_id, command_id)

    async def answered(self, command_id: str, fault: CommandFault | None = None) -> None:
        async with self.stage.db.transaction() as session:
            detail = "" if fault is None else "so it says"
            at = datetime.now(UTC)
            await commands.finish(session, self.agent_id, command_id, at, result={}, fault=fault, detail=detail)

    async def cancelled(self, command_id: str) -> None:
        async with self.stage.db.transaction() as session:
            await commands.ask_cancel(session, self.agent_id, command_id, datetime.now(UTC))


async def save(stage: Stage, agent_id: str) -> str:
    agent = await stage.agent(agent_id)
    async with stage.db.transaction() as session:
        saved = await artefacts.add(session, agent, saved_work_id(agent.attempt), ZIP, 3, iter([b"PK!"]))
    return saved.artefact_id


async def ended(stage: Stage, agent_id: str) -> dict[str, object]:
    """The detail of the agent's last event, which the stop makes."""
    await stage.stop(agent_id, grace_seconds=0)
    await stage.until(agent_id, AgentState.TERMINATED)
    last = (await stage.events(agent_id))[-1]
    assert last.kind == "agent.terminated"
    (row,) = await stage.sql("SELECT usage FROM agents WHERE agent_id = :a", a=agent_id)
    assert row["usage"] == last.detail["usage"]
    return last.detail


async def test_the_end_tells_where_the_saved_work_of_every_attempt_is_the_newest_first(stage: Stage) -> None:
    agent_id = await stage.started()
    first = await save(stage, agent_id)
    await stage.fail(agent_id, FailureKind.USER_RESTART)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    second = await save(stage, agent_id)
    assert first != second
    detail = await ended(stage, agent_id)
    assert detail["savedWork"] == [
        {
            "attempt": attempt,
            "artefactId": artefact_id,
            "contentType": "application/zip",
            "bytes": 3,
            "url": f"/api/artefacts/{artefact_id}",
        }
        for attempt, artefact_id in ((2, second), (1, first))
    ]


async def test_the_end_of_an_agent_that_saved_nothing_tells_of_none(stage: Stage) -> None:
    detail = await ended(stage, await stage.started())
    assert detail["savedWork"] == []
    assert detail["usage"]["tasks"] == 0  # type: ignore[index]


async def test_tasks_that_began_are_counted_over_all_attempts(stage: Stage) -> None:
    agent_id = await stage.started()
    given = Given(stage, agent_id)
    await given.sent("done")
    await given.answered("done")
    await given.sent("failed")
    await given.answered("failed", CommandFault.TASK_FAILED)
    await given.sent("given up")
    await given.cancelled("given up")
    await given.answered("given up", CommandFault.CANCELLED)
    await given.posted("by http")
    await given.answered("by http")
    await given.posted("by http, given up")
    await given.answered("by http, given up", CommandFault.CANCELLED)
    # None of these began.
    await given.sent("no model")
    await given.answered("no model", CommandFault.NO_MODEL)
    await given.sent("beside another")
    await given.answered("beside another", CommandFault.BUSY)
    await given.sent("no task", "navigate")
    await given.unsent("taken back")
    await given.cancelled("taken back")
    await given.sent("cut off by the crash")
    await given.unsent("never sent")
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await Given(stage, agent_id, attempt=2).sent("cut off by the stop")
    assert (await ended(stage, agent_id))["usage"]["tasks"] == 7  # type: ignore[index]


async def test_where_the_runtime_cannot_measure_an_attempts_own_word_counts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = stage.runtime.delete
    measured = {1: Usage(), 2: Usage(cpu_seconds=2)}

    async def deleted(agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        await delete(agent_id, attempt, grace_seconds)
        return measured[attempt]

    monkeypatch.setattr(stage.runtime, "delete", deleted)
    agent_id = await of_two_attempts(
        stage, '{"cpuSeconds": 40, "peakMemoryBytes": 900}', '{"cpuSeconds": 1, "peakMemoryBytes": 500}'
    )
    usage = (await ended(stage, agent_id))["usage"]
    assert (usage["cpuSeconds"], usage["peakMemoryBytes"]) == (42, 900)  # type: ignore[index]


async def by_the_reaper(stage: Stage, agent_id: str) -> None:
    await orphaned(stage)
    assert (await stage.reap()).rows == 1


async def by_the_next_start(stage: Stage, agent_id: str) -> None:
    await orphaned(stage)
    await stage.insist(stage.request())


async def by_an_operator(stage: Stage, agent_id: str) -> None:
    await orphaned(stage)
    await stage.lives.abandon(await stage.agent(agent_id), AbandonOrder(), stage.settings.timings)


async def by_a_run_that_was_reset(stage: Stage, agent_id: str) -> None:
    await stage.temporal("workflow", "reset", "--workflow-id", stage.workflow().id, "--type", "FirstWorkflowTask",
                         "--reason", "by hand")  # fmt: skip
    await stage.stop(agent_id)


@pytest.mark.parametrize(
    "cleared_up",
    [by_the_reaper, by_the_next_start, by_an_operator, by_a_run_that_was_reset],
    ids=lambda way: way.__name__,
)
async def test_what_all_attempts_used_is_told_by_whoever_clears_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, cleared_up: Callable[[Stage, str], Awaitable[None]]
) -> None:
    monkeypatch.setattr(reaping, "_SETTLE", timedelta(0))
    agent_id = await of_two_attempts(
        stage, '{"cpuSeconds": 40, "peakMemoryBytes": 900}', '{"cpuSeconds": 2.5, "peakMemoryBytes": null}'
    )
    await cleared_up(stage, agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    usage = (await stage.events(agent_id))[-1].detail["usage"]
    assert (usage["cpuSeconds"], usage["peakMemoryBytes"]) == (42.5, 900)


async def test_what_the_runtime_measured_when_nobody_carried_a_life_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = stage.runtime.delete

    async def measured(agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        await delete(agent_id, attempt, grace_seconds)
        return Usage(cpu_seconds=40, peak_memory_bytes=900)

    monkeypatch.setattr(stage.runtime, "delete", measured)
    monkeypatch.setattr(reaping, "_SETTLE", timedelta(0))
    for cleared_up in (by_the_reaper, by_the_next_start):
        agent_id = await stage.started()
        await cleared_up(stage, agent_id)
        await stage.until(agent_id, AgentState.TERMINATED)
        usage = (await stage.events(agent_id))[-1].detail["usage"]
        assert (usage["cpuSeconds"], usage["peakMemoryBytes"]) == (40, 900), cleared_up
