"""A scheduled start is made once, whatever is tried again, and whatever run of it is lost."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.contracts import Registration
from activities.lives import LifeActivities
from core.db.repositories import scheduled
from core.db.repositories.scheduled import ScheduledView
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartOutcome, StartRequest
from core.domain.schedule import ScheduledState, ScheduleReason
from core.errors import Unavailable
from core.ids import agent_of_scheduled
from tests.fixtures.bookings import (
    HOUR,
    becomes,
    booked,
    forward,
    now_is,
    refusals,
    row,
    run_of,
    tried,
)
from tests.fixtures.stage import Stage

S = ScheduledState


# ---- made once ------------------------------------------------------------------------------------------------------


async def test_try_whose_answer_was_lost_makes_no_second_agent_even_when_the_first_is_over(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, start_of = await row(stage, after=timedelta(0)), stage.lives.start

    async def forgetful(request: StartRequest) -> StartAnswer:
        await start_of(request)
        raise Unavailable("its answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(stage.lives, "start", forgetful)
        with pytest.raises(Unavailable):
            await tried(stage, start)
    assert (await now_is(stage, start)).state is S.STARTING
    agent_id = agent_of_scheduled(start.scheduled_start_id)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.stop(agent_id)
    await stage.until_closed()
    assert (await tried(stage, start)).over
    assert (await now_is(stage, start)).agent_id == agent_id
    assert len(await stage.sql("SELECT agent_id FROM agents")) == 1
    await stage.nothing_left()


async def test_refusal_by_a_worker_of_other_settings_is_told_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    start = await row(stage, after=timedelta(0))

    async def unknown(request: StartRequest) -> StartAnswer:
        return StartAnswer(outcome=StartOutcome.REJECTED, reason="unknown_pool")

    monkeypatch.setattr(stage.lives, "start", unknown)
    assert (await tried(stage, start)).over
    found = await now_is(stage, start)
    assert (found.state, found.reason) == (S.REJECTED, "unknown_pool")
    (told,) = await refusals(stage)
    assert (told.reason, told.detail["scheduledStartId"]) == ("unknown_pool", start.scheduled_start_id)


async def test_refusal_at_the_door_is_told_once_however_often_it_is_asked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, start_of = await row(stage, after=timedelta(0)), stage.lives.start
    asked: list[StartRequest] = []

    async def overtaken(request: StartRequest) -> StartAnswer:
        if request.project_id == "shop":
            asked.append(request)
            await stage.started("ann", "bank")
            await start_of(request)
            raise Unavailable("its answer was lost")
        return await start_of(request)

    with monkeypatch.context() as patched:
        patched.setattr(stage.lives, "start", overtaken)
        with pytest.raises(Unavailable):
            await tried(stage, start)
    await stage.until_closed()
    # As when the worker dies behind the decision: the same step of the agent's workflow is taken again.
    again = Registration(request=asked[0], workflow_id=stage.workflow().id)
    answer = (await LifeActivities(stage.db, stage.settings, stage.lives).register(again)).answer
    assert answer is not None
    assert answer.reason == "max_agents_exceeded"
    assert (await tried(stage, start)).over
    found = await now_is(stage, start)
    assert (found.state, found.reason) == (S.REJECTED, "max_agents_exceeded")
    assert [each.reason for each in await refusals(stage)] == ["max_agents_exceeded"]


async def test_template_that_goes_between_two_tries_ends_it(stage: Stage) -> None:
    start = await row(stage, after=timedelta(0), template="gone")
    await stage.sql("UPDATE scheduled_starts SET state = 'starting'")
    assert (await tried(stage, start)).over
    found = await now_is(stage, start)
    assert (found.state, found.reason) == (S.REJECTED, "unknown_template")


async def test_several_tries_at_once_make_one_agent(stage: Stage) -> None:
    start = await row(stage, after=timedelta(0))
    every = await asyncio.gather(*(tried(stage, start) for _ in range(5)))
    assert all(each.over for each in every)
    assert (await now_is(stage, start)).agent_id == agent_of_scheduled(start.scheduled_start_id)
    assert len(await stage.sql("SELECT agent_id FROM agents")) == 1


# ---- healed ---------------------------------------------------------------------------------------------------------


async def goes_on(stage: Stage, start: ScheduledView) -> bool:
    try:
        return (await run_of(stage, start).describe()).status is WorkflowExecutionStatus.RUNNING
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False


async def test_one_whose_run_was_terminated_is_made_all_the_same(stage: Stage) -> None:
    start = await booked(stage, after=timedelta(seconds=30))
    await stage.temporal("workflow", "terminate", "-w", run_of(stage, start).id, "--reason", "stuck")
    assert not await goes_on(stage, start)
    await stage.reap()
    assert await goes_on(stage, start)
    await stage.reap()
    await forward(stage, start, timedelta(seconds=31))
    made = await becomes(stage, start, S.STARTED)
    await stage.until(made.agent_id or "", AgentState.RUNNING)


async def test_one_whose_run_was_never_begun_gets_it_in_the_last_minute(stage: Stage) -> None:
    soon, overdue = await row(stage, after=timedelta(seconds=50)), await row(stage, "bob", after=-HOUR)
    far, over = await row(stage, "cat", after=HOUR), await row(stage, "dan", after=-HOUR)
    async with stage.db.transaction() as session:
        await scheduled.withdraw(session, over.scheduled_start_id, ScheduleReason.WITHDRAWN, datetime.now(UTC))
    await stage.reap()
    assert [await goes_on(stage, each) for each in (soon, far, over)] == [True, False, False]
    await becomes(stage, overdue, S.STARTED)


async def test_what_is_over_is_forgotten_with_the_rest_and_what_is_to_come_is_not(stage: Stage) -> None:
    old, kept = await row(stage, after=HOUR), await row(stage, after=HOUR)
    async with stage.db.transaction() as session:
        long_ago = datetime.now(UTC) - timedelta(days=stage.settings.retention.agent_days, hours=1)
        await scheduled.withdraw(session, old.scheduled_start_id, ScheduleReason.WITHDRAWN, long_ago)
        await session.execute(text("UPDATE scheduled_starts SET created_at = :at"), {"at": long_ago})
    await stage.reap()
    assert await stage.sql("SELECT scheduled_start_id FROM scheduled_starts") == [
        {"scheduled_start_id": kept.scheduled_start_id}
    ]
