"""What a runtime shows becomes what its lives are told, whatever happens between two looks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.engine import Db
from core.domain.lifecycle import AgentState
from core.domain.orders import FailureReport
from core.domain.recovery import FailureKind
from core.runtime.base import Observation
from temporal.watcher import Watcher
from tests.fixtures.stage import Stage, until


async def restarted_for(stage: Stage, agent_id: str) -> list[str | None]:
    return [event.reason for event in await stage.events(agent_id) if event.kind == "agent.restarting"]


async def test_agent_that_came_up_during_a_look_is_not_taken_for_gone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.started("ann")
    real_list, real_watch, real_failed = stage.runtime.list, stage.runtime.watch, stage.lives.failed
    came: list[str] = []
    told: list[FailureReport] = []
    # There is no effect to wait for, since there must be none: the look is over when the watch begins.
    looked = asyncio.Event()

    async def slow_list() -> list[Observation]:
        seen = await real_list()
        came.append(await stage.started("bob"))
        return seen

    def watch() -> AsyncIterator[Observation]:
        looked.set()
        return real_watch()

    async def failed(workflow_id: str, report: FailureReport) -> bool:
        told.append(report)
        return await real_failed(workflow_id, report)

    monkeypatch.setattr(stage.runtime, "list", slow_list)
    monkeypatch.setattr(stage.runtime, "watch", watch)
    monkeypatch.setattr(stage.lives, "failed", failed)
    watcher = asyncio.create_task(Watcher("memory", stage.runtime, stage.db, stage.lives).run())
    await asyncio.wait_for(looked.wait(), 20)
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    assert told == []
    assert (await stage.agent(came[0])).state is AgentState.RUNNING


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


async def test_watcher_outlives_the_database(stage: Stage, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Db.open(f"{database_url}-is-away", application="test", pool_size=1) as away:
        asked, transaction = 0, away.transaction

        def counted() -> AbstractAsyncContextManager[AsyncSession]:
            nonlocal asked
            asked += 1
            return transaction()

        monkeypatch.setattr(away, "transaction", counted)
        watcher = asyncio.create_task(Watcher("memory", stage.runtime, away, stage.lives).run())

        async def asked_again() -> bool:
            assert not watcher.done(), watcher
            return asked > 1

        await until(asked_again, "the watcher to try again")
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
