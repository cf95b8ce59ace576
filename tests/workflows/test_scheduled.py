"""A scheduled start waits for its time, makes one agent by the ordinary door, and says what became of it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowExecutionStatus
from temporalio.worker import Worker

from core.db.repositories import projects, scheduled, users
from core.db.repositories.scheduled import ScheduledView
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartOutcome, StartRequest
from core.domain.schedule import ScheduledState, ScheduleReason
from core.errors import Unavailable
from core.ids import agent_of_scheduled, scheduled_workflow_id
from core.settings import Project
from tests.fixtures.bookings import (
    HOUR,
    activities,
    becomes,
    begin,
    booked,
    closed,
    forward,
    full_queue,
    now_is,
    refusals,
    row,
    run_of,
)
from tests.fixtures.stage import SetStage, Stage, until
from workflows.scheduled_start import ScheduledStart, ScheduledStartInput

S = ScheduledState


# ---- its time -------------------------------------------------------------------------------------------------------


async def test_start_a_month_ahead_is_made_in_its_hour_and_not_before(stage: Stage) -> None:
    start = await booked(stage, after=timedelta(days=30))
    await forward(stage, start, timedelta(days=29, hours=23))
    assert (await now_is(stage, start)).state is S.SCHEDULED
    assert await stage.sql("SELECT agent_id FROM agents") == []
    await forward(stage, start, timedelta(hours=1, seconds=5))
    made = await becomes(stage, start, S.STARTED)
    assert made.agent_id == agent_of_scheduled(start.scheduled_start_id)
    await stage.until(made.agent_id, AgentState.RUNNING)
    assert await closed(stage, start) is WorkflowExecutionStatus.COMPLETED
    assert await refusals(stage) == []


@workflow.defn(name="ScheduledStart", sandboxed=False)
class Early(ScheduledStart):
    """What a clock that is set back does: the timer rings when half of the time is over."""

    @workflow.run
    async def run(self, start: ScheduledStartInput) -> None:
        await super().run(start)

    async def _rest(self, time: timedelta, why: str, called: Callable[[], bool] = bool) -> None:
        await super()._rest(max(time / 2, timedelta(minutes=1)), why, called)


async def test_timer_that_rings_early_is_set_again_for_the_rest(stage: Stage) -> None:
    start = await row(stage)
    made = activities(stage)
    async with Worker(
        stage.client, task_queue="early", workflows=[Early], activities=[made.start_scheduled, made.withdraw_scheduled]
    ):
        ask = ScheduledStartInput(scheduled_start_id=start.scheduled_start_id, start_at=start.start_at)
        handle = await stage.client.start_workflow(
            Early.run, ask, id=scheduled_workflow_id(start.scheduled_start_id), task_queue="early"
        )
        await forward(stage, start, HOUR + timedelta(minutes=1))
        await becomes(stage, start, S.STARTED)
    history = [each async for each in handle.fetch_history_events()]
    rung = [each for each in history if each.HasField("timer_fired_event_attributes")]
    tried = next(each for each in history if each.HasField("activity_task_scheduled_event_attributes"))
    assert len(rung) > 2
    assert tried.event_time.ToDatetime(UTC) >= start.start_at


async def test_start_that_comes_due_while_no_worker_is_up_is_made_when_one_is_back(stage: Stage) -> None:
    await stage.worker_down()
    start = await booked(stage, after=timedelta(seconds=0.2))

    async def overdue() -> bool:
        return datetime.now(UTC) > start.start_at + timedelta(seconds=0.2)

    await until(overdue, "its time to pass")
    assert (await now_is(stage, start)).state is S.SCHEDULED
    await stage.worker_up()
    made = await becomes(stage, start, S.STARTED)
    await stage.until(made.agent_id or "", AgentState.RUNNING)


# ---- taken back -----------------------------------------------------------------------------------------------------


async def test_one_that_its_user_takes_back_makes_no_agent_and_its_run_ends(stage: Stage) -> None:
    start = await booked(stage)
    async with stage.db.transaction() as session:
        await scheduled.withdraw(session, start.scheduled_start_id, ScheduleReason.WITHDRAWN, datetime.now(UTC))
    await stage.lives.scheduled.withdraw(start.scheduled_start_id)
    assert await closed(stage, start) is WorkflowExecutionStatus.CANCELED
    found = await now_is(stage, start)
    assert (found.state, found.reason) == (S.CANCELLED, "user_requested")
    for of in (start, await row(stage)):
        await stage.lives.scheduled.withdraw(of.scheduled_start_id)
    assert await stage.sql("SELECT agent_id FROM agents") == []


async def test_one_that_an_operator_cancels_is_cancelled_for_its_user_too(stage: Stage) -> None:
    start = await booked(stage)
    await stage.temporal("workflow", "cancel", "-w", run_of(stage, start).id)
    found = await becomes(stage, start, S.CANCELLED)
    assert found.reason == "workflow_cancelled"
    assert await closed(stage, start) is WorkflowExecutionStatus.CANCELED


async def test_run_that_was_not_told_finds_it_cancelled_when_it_wakes(stage: Stage) -> None:
    start = await booked(stage)
    async with stage.db.transaction() as session:
        await scheduled.withdraw(session, start.scheduled_start_id, ScheduleReason.WITHDRAWN, datetime.now(UTC))
    await forward(stage, start, HOUR + timedelta(minutes=1))
    await closed(stage, start)
    assert (await now_is(stage, start)).state is S.CANCELLED
    assert await stage.sql("SELECT agent_id FROM agents") == []


async def test_start_under_way_is_not_torn_apart_by_a_cancel(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gate, start_of = asyncio.Event(), asyncio.Event(), stage.lives.start

    async def held(request: StartRequest) -> StartAnswer:
        if gate.is_set():
            return await start_of(request)
        entered.set()
        await gate.wait()
        raise Unavailable("this try comes to nothing")

    monkeypatch.setattr(stage.lives, "start", held)
    start = await booked(stage, after=timedelta(0))
    await asyncio.wait_for(entered.wait(), 20)
    async with stage.db.transaction() as session:
        kept = await scheduled.withdraw(session, start.scheduled_start_id, ScheduleReason.WITHDRAWN, datetime.now(UTC))
    assert kept is not None
    assert kept.state is S.STARTING
    await run_of(stage, start).cancel()
    gate.set()
    made = await becomes(stage, start, S.STARTED)
    await stage.until(made.agent_id or "", AgentState.RUNNING)
    await closed(stage, start)


# ---- what it comes to -----------------------------------------------------------------------------------------------


async def refused(stage: Stage, start: ScheduledView) -> tuple[str | None, dict[str, Any]]:
    """Why it came to nothing, as its row and the one event under its user say alike, and that event's detail."""
    found = await becomes(stage, start, S.REJECTED)
    (told,) = await refusals(stage, start.user_id)
    assert (told.agent_id, told.project_id, told.reason) == (None, start.project_id, found.reason)
    assert told.detail["scheduledStartId"] == start.scheduled_start_id
    assert found.agent_id is None
    assert await closed(stage, start) is WorkflowExecutionStatus.COMPLETED
    return found.reason, told.detail


async def test_user_who_left_the_project_meanwhile_is_refused(stage: Stage) -> None:
    start = await row(stage, after=timedelta(0))
    async with stage.db.transaction() as session:
        await projects.put_members(session, "shop", [])
    await stage.lives.scheduled.begin(start)
    assert (await refused(stage, start))[0] == "not_a_member"


async def test_quota_counts_at_its_time_and_not_before(stage: Stage) -> None:
    start = await booked(stage)
    other = await stage.started("ann", "bank")
    await forward(stage, start, HOUR + timedelta(minutes=1))
    reason, detail = await refused(stage, start)
    assert (reason, detail["limit"], detail["used"]) == ("max_agents_exceeded", 1, 1)
    assert (await stage.agent(other)).state is AgentState.RUNNING


async def test_project_that_has_all_its_agents_by_then_is_a_refusal(set_stage: SetStage) -> None:
    stage = await set_stage(project=Project(max_agents=1))
    await stage.started("bob", "shop")
    start = await booked(stage, after=timedelta(0))
    assert (await refused(stage, start))[0] == "max_project_agents_exceeded"


async def test_subscription_that_has_ended_by_then_is_a_refusal(stage: Stage) -> None:
    start = await row(stage, after=timedelta(0))
    async with stage.db.transaction() as session:
        await users.put(session, "ann", subscription_active_until=datetime.now(UTC) - HOUR)
    await stage.lives.scheduled.begin(start)
    assert (await refused(stage, start))[0] == "subscription_inactive"


async def test_template_that_is_gone_by_then_is_a_refusal(stage: Stage) -> None:
    start = await booked(stage, after=timedelta(0), template="gone")
    assert (await refused(stage, start))[0] == "unknown_template"


async def test_agent_that_lives_already_is_what_it_comes_to(stage: Stage) -> None:
    agent_id = await stage.started()
    start = await booked(stage, after=timedelta(0))
    assert (await becomes(stage, start, S.STARTED)).agent_id == agent_id
    assert len(await stage.sql("SELECT agent_id FROM agents")) == 1


async def test_agent_that_is_about_to_go_is_kept(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 600})
    agent_id = await stage.started()
    await stage.stop(agent_id, "inactivity")
    await stage.until(agent_id, AgentState.DRAINING)
    start = await booked(stage, after=timedelta(0))
    assert (await becomes(stage, start, S.STARTED)).agent_id == agent_id
    await stage.until(agent_id, AgentState.RUNNING)


async def test_start_without_room_waits_in_line_like_any_other(set_stage: SetStage) -> None:
    stage = await set_stage(capacity=1)
    other = await stage.started("bob")
    start = await booked(stage, after=timedelta(0))
    made = await becomes(stage, start, S.STARTED)
    assert (await stage.agent(made.agent_id or "")).state is AgentState.QUEUED
    await stage.stop(other)
    await stage.until(made.agent_id or "", AgentState.RUNNING)


async def test_start_that_is_answered_with_a_life_just_over_is_made_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = await stage.started()
    await stage.stop(over)
    await stage.until_closed()
    ask, tries = stage.lives.start, []

    async def kept(request: StartRequest, *, anew: bool = False) -> StartAnswer:
        """What a server says that keeps the first answer, and a workflow that does not know yet."""
        tries.append(anew)
        if tries.count(True) < 2:
            return StartAnswer(outcome=StartOutcome.EXISTING, agent_id=over)
        return await ask(request, anew=anew)

    monkeypatch.setattr(stage.lives, "start", kept)
    start = await booked(stage, after=timedelta(0))
    made = await becomes(stage, start, S.STARTED)
    assert made.agent_id == agent_of_scheduled(start.scheduled_start_id)
    await stage.until(made.agent_id, AgentState.RUNNING)


async def test_full_queue_is_asked_again_and_is_no_refusal_yet(set_stage: SetStage) -> None:
    stage, other = await full_queue(set_stage)
    start = await row(stage, after=timedelta(0))
    await begin(stage, start, again=timedelta(milliseconds=200))

    async def asked() -> bool:
        found = await now_is(stage, start)
        return (found.state, found.reason) == (S.SCHEDULED, "queue_full")

    await until(asked, "the full queue to be noted")
    assert await refusals(stage) == []
    await stage.stop(other)
    made = await becomes(stage, start, S.STARTED)
    assert made.reason is None
    assert (await stage.agent(made.agent_id or "")).state is AgentState.QUEUED


async def test_queue_that_stays_full_is_a_refusal_in_the_end(set_stage: SetStage) -> None:
    stage, _ = await full_queue(set_stage)
    start = await row(stage, after=timedelta(0))
    await begin(stage, start, again=timedelta(milliseconds=200), patience=timedelta(seconds=1))
    assert (await refused(stage, start))[0] == "queue_full"
    history = [each async for each in run_of(stage, start).fetch_history_events()]
    assert sum(each.HasField("activity_task_scheduled_event_attributes") for each in history) > 1
