"""A queue that takes no more signals, as one whose workers are gone and whose history has all that it may have."""

from typing import NoReturn

import pytest
from temporalio.service import RPCError, RPCStatusCode

from core.domain.lifecycle import AgentState
from tests.fixtures.stage import SetStage, Stage, until


def deafen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on it refuses; returns the pools that it was asked for."""
    asked: list[str] = []

    async def refused(pool: str) -> NoReturn:
        asked.append(pool)
        raise RPCError("exceeded workflow execution limit for signals", RPCStatusCode.INVALID_ARGUMENT, b"")

    monkeypatch.setattr(stage.lives, "wake_pool", refused)
    return asked


async def test_lives_begin_wait_leave_and_end_although_their_queue_takes_no_signal(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage({}, capacity=1)
    deafen(stage, monkeypatch)
    first = await stage.started()
    second = await stage.queued("bob")
    await stage.stop(second)
    await stage.until(second, AgentState.CANCELLED)
    await stage.stop(first)
    await stage.until(first, AgentState.TERMINATED)
    for user in ("ann", "bob"):
        await stage.until_closed(user)


async def test_queue_is_told_when_one_that_waits_gives_up_for_it_may_have_held_up_those_behind(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage({}, capacity=1)
    await stage.started()
    first = await stage.queued("bob")
    second = await stage.queued("carl")
    asked = deafen(stage, monkeypatch)
    await stage.stop(first)
    await stage.until(first, AgentState.CANCELLED)

    async def told() -> bool:
        return asked == ["default"]

    await until(told, "the queue to be told")
    assert (await stage.agent(second)).state is AgentState.QUEUED


async def test_looks_at_the_machines_go_on_although_a_queue_takes_no_signal(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage({}, capacity=1)
    await stage.started()
    await stage.queued("bob")
    asked = deafen(stage, monkeypatch)
    # A look after so long may find more room, so whoever waits is to be told.
    await stage.sql("UPDATE clusters SET measured_at = now() - interval '1 hour'")

    async def told() -> bool:
        return bool(asked)

    await until(told, "a look that tells the queue")
    [told_at] = await stage.sql("SELECT clock_timestamp() AS at")

    async def looked() -> bool:
        return bool(await stage.sql("SELECT 1 AS later FROM clusters WHERE measured_at > :at", at=told_at["at"]))

    await until(looked, "another look")
