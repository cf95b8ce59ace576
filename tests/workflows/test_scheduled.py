"""A scheduled start waits for its time, makes one agent by the ordinary door, and says what became of it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from temporalio import workflow
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import TimeSkipper, TimeSkippingConfig
from temporalio.worker import Worker

from activities.contracts import DueStart, Registration
from activities.lives import LifeActivities
from activities.scheduling import SchedulingActivities
from core.db.repositories import events, projects, scheduled, users
from core.db.repositories.scheduled import ScheduledView
from core.domain.events import Event, EventKind
from core.domain.lifecycle import AgentState
from core.domain.orders import StartAnswer, StartRequest
from core.domain.schedule import ScheduledState, ScheduleReason
from core.errors import Unavailable
from core.ids import agent_of_scheduled, scheduled_workflow_id
from core.settings import Queue
from tests.fixtures.stage import SetStage, Stage, until
from workflows.options import CONTROL_QUEUE
from workflows.scheduled_start import ScheduledStart, ScheduledStartInput

HOUR = timedelta(hours=1)
S = ScheduledState


async def row(stage: Stage, user_id: str = "ann", project_id: str = "shop", **fields: Any) -> ScheduledView:
    """A booked start without a run."""
    await stage.member(user_id, project_id, tier=fields.pop("tier", "free"))
    now = datetime.now(UTC)
    at = now + fields.pop("after", HOUR)
    async with stage.db.transaction() as session:
        return await scheduled.book(session, user_id, project_id, fields.pop("template", None), at, now)


async def booked(stage: Stage, user_id: str = "ann", project_id: str = "shop", **fields: Any) -> ScheduledView:
    found = await row(stage, user_id, project_id, **fields)
    await stage.lives.scheduled.begin(found)
    return found


async def now_is(stage: Stage, start: ScheduledView) -> ScheduledView:
    async with stage.db.transaction() as session:
        found = await scheduled.get(session, start.scheduled_start_id)
    assert found is not None
    return found


async def becomes(stage: Stage, start: ScheduledView, *states: ScheduledState) -> ScheduledView:
    found: list[ScheduledView] = []

    async def arrived() -> bool:
        found[:] = [await now_is(stage, start)]
        return found[0].state in states

    await until(arrived, f"{start.scheduled_start_id} to be {states}, it is {found}")
    return found[0]


def run_of(stage: Stage, start: ScheduledView) -> WorkflowHandle[Any, Any]:
    return stage.client.get_workflow_handle(scheduled_workflow_id(start.scheduled_start_id))


async def forward(stage: Stage, start: ScheduledView, time: timedelta) -> None:
    skipper = TimeSkipper(stage.client, config=TimeSkippingConfig(enabled=False))
    await skipper.fast_forward(run_of(stage, start), time)


async def closed(stage: Stage, start: ScheduledView) -> WorkflowExecutionStatus | None:
    async def over() -> bool:
        return (await run_of(stage, start).describe()).close_time is not None

    await until(over, "its run to be closed")
    return (await run_of(stage, start).describe()).status


async def refusals(stage: Stage, user_id: str = "ann") -> list[Event]:
    async with stage.db.transaction() as session:
        return [each for each in await events.of_user(session, user_id, 0) if each.kind is EventKind.REJECTED]


def activities(stage: Stage) -> SchedulingActivities:
    return SchedulingActivities(stage.db, stage.settings, stage.lives)


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

    async def _rest(self, time: timedelta, why: str) -> None:
        await super()._rest(max(time / 2, timedelta(minutes=1)), why)


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


async def full_queue(set_stage: SetStage) -> tuple[Stage, str]:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=0, queue=Queue(max=1))
    return stage, await stage.queued("bob")


async def begin(stage: Stage, start: ScheduledView, **waits: timedelta) -> None:
    ask = ScheduledStartInput(scheduled_start_id=start.scheduled_start_id, start_at=start.start_at, **waits)
    await stage.client.start_workflow(
        ScheduledStart.run, ask, id=scheduled_workflow_id(start.scheduled_start_id), task_queue=CONTROL_QUEUE
    )


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


# ---- made once ------------------------------------------------------------------------------------------------------


async def test_try_whose_answer_was_lost_makes_no_second_agent_even_when_the_first_is_over(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, start_of = await row(stage, after=timedelta(0)), stage.lives.start

    async def forgetful(request: StartRequest) -> StartAnswer:
        await start_of(request)
        raise Unavailable("its answer was lost")

    due = DueStart(scheduled_start_id=start.scheduled_start_id)
    with monkeypatch.context() as patched:
        patched.setattr(stage.lives, "start", forgetful)
        with pytest.raises(Unavailable):
            await activities(stage).start_scheduled(due)
    assert (await now_is(stage, start)).state is S.STARTING
    agent_id = agent_of_scheduled(start.scheduled_start_id)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.stop(agent_id)
    await stage.until_closed()
    assert (await activities(stage).start_scheduled(due)).over
    assert (await now_is(stage, start)).agent_id == agent_id
    assert len(await stage.sql("SELECT agent_id FROM agents")) == 1
    await stage.nothing_left()


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

    due = DueStart(scheduled_start_id=start.scheduled_start_id)
    with monkeypatch.context() as patched:
        patched.setattr(stage.lives, "start", overtaken)
        with pytest.raises(Unavailable):
            await activities(stage).start_scheduled(due)
    await stage.until_closed()
    # As when the worker dies behind the decision: the same step of the agent's workflow is taken again.
    again = Registration(request=asked[0], workflow_id=stage.workflow().id)
    answer = (await LifeActivities(stage.db, stage.settings, stage.lives).register(again)).answer
    assert answer is not None
    assert answer.reason == "max_agents_exceeded"
    assert (await activities(stage).start_scheduled(due)).over
    found = await now_is(stage, start)
    assert (found.state, found.reason) == (S.REJECTED, "max_agents_exceeded")
    assert [each.reason for each in await refusals(stage)] == ["max_agents_exceeded"]


async def test_several_tries_at_once_make_one_agent(stage: Stage) -> None:
    start = await row(stage, after=timedelta(0))
    due = DueStart(scheduled_start_id=start.scheduled_start_id)
    tried = await asyncio.gather(*(activities(stage).start_scheduled(due) for _ in range(5)))
    assert all(each.over for each in tried)
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
