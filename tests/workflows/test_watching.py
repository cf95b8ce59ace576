"""What a runtime shows becomes what its lives are told, whatever happens between two looks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.service import RPCError, RPCStatusCode

from core.db.engine import Db
from core.domain.lifecycle import AgentState
from core.domain.orders import FailureReport
from core.domain.recovery import FailureKind
from core.runtime.base import Observation, Phase
from temporal import watcher
from temporal.lives import Lives
from temporal.watcher import Watcher
from tests.fixtures.stage import Stage, until


async def restarted_for(stage: Stage, agent_id: str) -> list[str | None]:
    return [event.reason for event in await stage.events(agent_id) if event.kind == "agent.restarting"]


class Told:
    """In the place of the lives of one watcher: what it tells of whom."""

    def __init__(self) -> None:
        self.ready_ones: set[str] = set()
        self.failures: list[tuple[str, FailureKind]] = []
        self.takes = True

    async def ready(self, agent_id: str, attempt: int, workflow_id: str) -> bool:
        self.ready_ones.add(agent_id)
        return True

    async def failed(self, workflow_id: str, report: FailureReport) -> bool:
        self.failures.append((report.agent_id, report.kind))
        return self.takes


@asynccontextmanager
async def watched(stage: Stage) -> AsyncIterator[Told]:
    """By a watcher of the test's own, from its first look."""
    told = Told()
    task = asyncio.create_task(Watcher("memory", stage.runtime, stage.db, cast(Lives, told)).run())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def looks_all_the_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that ends at once has everything looked at anew."""

    async def nothing() -> AsyncIterator[Observation]:
        none: list[Observation] = []
        for seen in none:
            yield seen

    monkeypatch.setattr(stage.runtime, "watch", nothing)
    monkeypatch.setattr(watcher, "_PAUSE", 0.01)


async def test_agent_that_came_up_during_a_look_is_not_taken_for_gone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.started("ann")
    real_list = stage.runtime.list
    came: list[str] = []

    async def slow_list() -> list[Observation]:
        seen = await real_list()
        came.append(await stage.started("bob"))
        return seen

    monkeypatch.setattr(stage.runtime, "list", slow_list)
    async with watched(stage) as told:

        async def look_is_over() -> bool:
            return bool(came) and came[0] in told.ready_ones

        await until(look_is_over, "what changed during the look to be told")
    assert told.failures == []


async def test_agent_that_vanished_during_a_look_that_took_long_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id = await stage.started()
    await stage.worker_down()
    real_list = stage.runtime.list

    async def slow_list() -> list[Observation]:
        seen = await real_list()
        await stage.runtime.delete(agent_id, 1)
        stage.runtime._changes._recent.clear()  # so long ago that a new watch is not told of it
        return seen

    monkeypatch.setattr(stage.runtime, "list", slow_list)
    async with watched(stage) as told:

        async def is_told() -> bool:
            return told.failures == [(agent_id, FailureKind.RUNTIME_GONE)]

        await until(is_told, "the failure to be told")


async def test_agent_that_vanished_is_told_at_once(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.runtime.delete(agent_id, 1)
    agent = await stage.until(agent_id, AgentState.RESTARTING)
    assert agent.reason == FailureKind.RUNTIME_GONE
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.stop(agent_id)
    await stage.nothing_left()
    assert await restarted_for(stage, agent_id) == [FailureKind.RUNTIME_GONE]


async def test_agent_that_vanished_while_nobody_watched_is_told_by_the_next_look(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.worker_down()
    await stage.runtime.delete(agent_id, 1)
    stage.runtime._changes._recent.clear()
    await stage.worker_up()
    agent = await stage.until(agent_id, AgentState.RESTARTING)
    assert agent.reason == FailureKind.RUNTIME_GONE


async def test_what_still_holds_at_every_look_is_told_to_a_life_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished, exited = await stage.started("ann"), await stage.started("bob")
    await stage.worker_down()
    await stage.runtime.delete(vanished, 1)
    looks, real_list = 0, stage.runtime.list

    async def list_once_more() -> list[Observation]:
        nonlocal looks
        looks += 1
        seen = await real_list()
        return [each.model_copy(update={"phase": Phase.EXITED, "failure": FailureKind.CRASH}) for each in seen]

    monkeypatch.setattr(stage.runtime, "list", list_once_more)
    looks_all_the_time(stage, monkeypatch)
    async with watched(stage) as told:

        async def looked_again() -> bool:
            return looks > 3

        await until(looked_again, "the watcher to look again")
    assert sorted(told.failures) == sorted([(vanished, FailureKind.RUNTIME_GONE), (exited, FailureKind.CRASH)])


async def test_life_that_did_not_take_what_it_was_told_is_told_by_the_next_look(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id = await stage.started()
    await stage.worker_down()
    await stage.runtime.delete(agent_id, 1)
    looks_all_the_time(stage, monkeypatch)
    async with watched(stage) as told:
        told.takes = False

        async def told_again() -> bool:
            return len(told.failures) > 1

        await until(told_again, "the failure to be told again")


async def test_watcher_outlives_the_database(stage: Stage, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Db.open(f"{database_url}-is-away", application="test", pool_size=1) as away:
        asked, transaction = 0, away.transaction

        def counted() -> AbstractAsyncContextManager[AsyncSession]:
            nonlocal asked
            asked += 1
            return transaction()

        monkeypatch.setattr(away, "transaction", counted)
        task = asyncio.create_task(Watcher("memory", stage.runtime, away, stage.lives).run())

        async def asked_again() -> bool:
            assert not task.done(), task
            return asked > 1

        await until(asked_again, "the watcher to try again")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_watcher_outlives_a_workflow_that_takes_no_signal_and_tells_everybody_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Temporal answers the 10,001st signal of a run."""
    full, other = await stage.started("ann"), await stage.started("bob")
    await stage.worker_down()
    refused, real_failed = 0, stage.lives.failed

    async def failed(workflow_id: str, report: FailureReport) -> bool:
        nonlocal refused
        if report.agent_id == full:
            refused += 1
            raise RPCError("exceeded workflow execution limit", RPCStatusCode.INVALID_ARGUMENT, b"")
        return await real_failed(workflow_id, report)

    monkeypatch.setattr(stage.lives, "failed", failed)
    for agent_id in (full, other):
        await stage.runtime.delete(agent_id, 1)
    task = asyncio.create_task(Watcher("memory", stage.runtime, stage.db, stage.lives).run())

    async def refused_it() -> bool:
        return refused > 0

    await until(refused_it, "the watcher to tell of the one that takes nothing")
    await stage.worker_up()
    await stage.until(other, AgentState.RESTARTING)
    assert not task.done(), task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
