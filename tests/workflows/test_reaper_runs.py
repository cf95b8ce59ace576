"""The reaper and workflows: a run that no row stands for ends, whatever it was about; every other goes on."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from activities import reaping
from activities.contracts import Final
from activities.lives import LifeActivities, life_of
from activities.reaping import ReapingActivities
from core.db.repositories.scheduled import ScheduledView
from core.domain.lifecycle import AgentState, EndReason
from core.domain.schedule import ScheduledState
from core.errors import RuntimeRetryable
from core.runtime.base import Owner, Pruned, Usage
from core.runtime.memory import MemoryRuntime
from core.settings import Memory, Retention
from tests.fixtures.bookings import booked, closed, now_is, row, run_of
from tests.fixtures.orphans import orphaned
from tests.fixtures.stage import SetStage, Stage, until
from workflows.options import AGENT_ID

_GOES_ON = WorkflowExecutionStatus.RUNNING


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as too young."""
    monkeypatch.setattr(reaping, "_SETTLE", timedelta(0))


class Tally:
    """Keeps what was counted."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, str]] = Counter()

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        self.counted[name, labels["kind"]] += amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        raise AssertionError(name)


def reaper(stage: Stage, tally: Tally | None = None, runtime: MemoryRuntime | None = None) -> ReapingActivities:
    lives = LifeActivities(stage.db, stage.settings, stage.lives)
    runtimes = {"memory": runtime or stage.runtime}
    return ReapingActivities(stage.db, stage.settings, stage.lives, runtimes, lives, tally)


async def end_row(stage: Stage, agent_id: str) -> None:
    """End an agent's row behind the back of its workflow."""
    ending = Final(
        life=life_of(await stage.agent(agent_id)), state=AgentState.TERMINATED, reason=EndReason.WORKFLOW_GONE
    )
    lives = LifeActivities(stage.db, stage.settings, stage.lives)
    assert (await lives.finish(ending)).applied


async def take_row_away(stage: Stage, agent_id: str) -> None:
    """What a database that is restored from a backup does to an agent that is younger."""
    await stage.sql("DELETE FROM events WHERE agent_id = :a", a=agent_id)
    await stage.sql("DELETE FROM agents WHERE agent_id = :a", a=agent_id)


async def status(handle: WorkflowHandle[Any, Any]) -> WorkflowExecutionStatus | None:
    return (await handle.describe()).status


async def there(stage: Stage) -> set[tuple[str, int]]:
    return {(seen.agent_id, seen.attempt) for seen in await stage.runtime.list()}


# ---- lives ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("state", [AgentState.RUNNING, AgentState.RESTARTING, AgentState.DRAINING, AgentState.QUEUED])
async def test_life_whose_row_is_over_ends_by_its_own_steps(set_stage: SetStage, state: AgentState) -> None:
    stage = await set_stage(
        {"grace_seconds": 600, "restart_backoff_seconds": 600, "grant_tick_seconds": 600},
        capacity=0 if state is AgentState.QUEUED else 1,
    )
    agent_id = (await stage.start()).agent_id or ""
    if state is not AgentState.QUEUED:
        await stage.until(agent_id, AgentState.RUNNING)
    if state is AgentState.RESTARTING:
        await stage.fail(agent_id)
    if state is AgentState.DRAINING:
        await stage.stop(agent_id, "maintenance")
    await stage.until(agent_id, state)
    await end_row(stage, agent_id)
    log = await stage.events(agent_id)
    assert (await stage.reap()).workflows == 1
    await stage.until_closed()
    assert await status(stage.workflow()) is WorkflowExecutionStatus.COMPLETED
    assert await there(stage) == set()
    assert await stage.events(agent_id) == log
    assert (await stage.reap()).workflows == 0


@pytest.mark.usefixtures("hasty")
async def test_life_without_a_row_is_terminated_and_its_user_can_start_again(stage: Stage) -> None:
    lost = await stage.started("ann")
    other = await stage.started("bob")
    await take_row_away(stage, lost)
    found = await stage.reap()
    assert (found.workflows, found.objects, found.rows) == (1, 1, 0)
    [*_, last] = [event async for event in stage.workflow("ann").fetch_history_events()]
    assert (
        last.workflow_execution_terminated_event_attributes.reason == f"the reaper: the database knows no agent {lost}"
    )
    assert await there(stage) == {(other, 1)}
    again = await stage.started("ann")
    assert (await stage.reap()).workflows == 0
    assert await there(stage) == {(other, 1), (again, 1)}


@pytest.mark.usefixtures("hasty")
async def test_life_that_tries_its_step_for_ever_without_a_row_is_terminated_too(stage: Stage) -> None:
    lost = await stage.started()
    await take_row_away(stage, lost)
    await stage.workflow().signal("stop", {"agent_id": lost, "grace_seconds": 0})

    async def busy() -> bool:
        owner = await stage.lives.owner(stage.workflow().id)
        return owner is not None and owner.deciding

    await until(busy, "the workflow to be at its step")
    assert (await stage.reap()).workflows == 1
    assert await status(stage.workflow()) is WorkflowExecutionStatus.TERMINATED


@pytest.mark.usefixtures("hasty")
async def test_life_whose_row_is_of_an_earlier_attempt_than_there_is_ends_in_two_looks(stage: Stage) -> None:
    behind, other = await stage.started("ann"), await stage.started("bob")
    for agent_id in (behind, other):
        await stage.fail(agent_id)
        await stage.until(agent_id, AgentState.RESTARTING)
        await stage.until(agent_id, AgentState.RUNNING)
    # What a restored backup says: nothing that this workflow does will be written any more.
    await stage.sql("UPDATE agents SET attempt = 1 WHERE agent_id = :a", a=behind)
    assert (await stage.reap()).workflows == 1
    assert await status(stage.workflow("ann")) is WorkflowExecutionStatus.TERMINATED
    assert (await stage.reap()).rows == 1
    assert (await stage.agent(behind)).state is AgentState.TERMINATED
    assert await there(stage) == {(other, 2)}
    assert await status(stage.workflow("bob")) is _GOES_ON


@pytest.mark.usefixtures("hasty")
async def test_start_that_nobody_has_decided_yet_is_left_alone(stage: Stage) -> None:
    await stage.member("ann", "shop")
    await stage.worker_down()
    request = stage.request()
    asked = asyncio.create_task(stage.insist(request))

    async def begun() -> bool:
        return request.agent_id in (await stage.lives.owners()).values()

    await until(begun, "the workflow to be listed")
    assert (await stage.reap()).workflows == 0
    await stage.worker_up()
    answer = await asked
    assert answer.agent_id == request.agent_id
    await stage.until(request.agent_id, AgentState.RUNNING)


async def test_row_that_has_just_ended_gives_its_workflow_time_to_notice(stage: Stage) -> None:
    ended, lost = await stage.started("ann"), await stage.started("bob")
    await end_row(stage, ended)
    await take_row_away(stage, lost)
    assert (await stage.reap()).workflows == 0
    assert await status(stage.workflow("ann")) is _GOES_ON
    assert await status(stage.workflow("bob")) is _GOES_ON
    for name in ("ann", "bob"):
        await stage.workflow(name).terminate("the test is over")


@pytest.mark.usefixtures("hasty")
async def test_workflows_that_are_not_berths_are_left_alone(stage: Stage) -> None:
    async def foreign(kind: str, name: str, *marks: SearchAttributePair[Any]) -> WorkflowHandle[Any, Any]:
        return await stage.client.start_workflow(
            kind, id=f"{name}-{uuid4().hex}", task_queue="theirs", search_attributes=TypedSearchAttributes(marks)
        )

    theirs = [
        await foreign("Nightly", "agent/eve/shop", SearchAttributePair(AGENT_ID, "ag-unknown")),
        # Their own worker may call its workflows as we do.
        await foreign("AgentWorkflow", "theirs"),
        await foreign("AgentWorkflow", "theirs", SearchAttributePair(AGENT_ID, "ag-unknown")),
        await foreign("ScheduledStart", "nightly"),
    ]

    async def listed() -> bool:
        return len(await stage.lives.owners()) == 2

    await until(listed, "them to be listed")
    found = await stage.reap()
    assert (found.workflows, found.scheduled_starts) == (0, 0)
    assert [await status(each) for each in theirs] == [_GOES_ON] * 4


@pytest.mark.usefixtures("hasty")
async def test_several_reapers_at_once_end_each_run_once(stage: Stage) -> None:
    keeps = await stage.started("keeps")
    for number in range(3):
        await take_row_away(stage, await stage.started(f"user{number}"))
    found = await asyncio.gather(*(stage.reap() for _ in range(4)))
    assert sum(one.workflows for one in found) == 3
    assert (await stage.reap()).objects == 0
    assert await there(stage) == {(keeps, 1)}
    assert (await stage.agent(keeps)).state is AgentState.RUNNING


async def test_new_life_is_not_ended_for_the_old_one_by_a_reaper_that_is_late(stage: Stage) -> None:
    old = await stage.started()
    seen = await stage.lives.owner(stage.workflow().id)
    assert seen is not None
    await stage.stop(old)
    await stage.until_closed()
    new = await stage.started()
    assert not await stage.lives.end_run(stage.workflow().id, seen.run_id, "late")
    assert await status(stage.workflow()) is _GOES_ON
    assert (await stage.agent(new)).state is AgentState.RUNNING


@pytest.mark.usefixtures("hasty")
async def test_look_that_is_killed_in_the_middle_is_finished_by_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, terminated = await stage.started("ann"), await stage.started("bob")
    keeps = await stage.started("cat")
    await end_row(stage, ended)
    await orphaned(stage, "bob")
    delete, reached = stage.runtime.delete, asyncio.Event()

    async def held(agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        reached.set()
        await asyncio.Event().wait()
        return Usage()

    monkeypatch.setattr(stage.runtime, "delete", held)
    killed = asyncio.create_task(stage.reap())
    await reached.wait()
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    monkeypatch.setattr(stage.runtime, "delete", delete)
    await stage.reap()
    await stage.until_closed("ann")
    assert (await stage.agent(terminated)).state is AgentState.TERMINATED
    assert (await stage.kinds(terminated))[-2:] == ["draining", "terminated"]
    assert await there(stage) == {(keeps, 1)}


@pytest.mark.usefixtures("hasty")
async def test_row_that_cannot_be_ended_holds_up_no_other_and_is_said_to_stay(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "_REMOVE_SECONDS", 3)
    hangs, refuses, goes = [await stage.started(name) for name in ("ann", "bob", "cat")]
    for name in ("ann", "bob", "cat"):
        await orphaned(stage, name)
    delete = stage.runtime.delete

    async def unwilling(agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        if agent_id == hangs:
            await asyncio.Event().wait()
        if agent_id == refuses:
            raise RuntimeRetryable("its pod does not end")
        return await delete(agent_id, attempt, grace_seconds)

    monkeypatch.setattr(stage.runtime, "delete", unwilling)

    async def listed_as_gone() -> bool:
        return not await stage.lives.owners()

    await until(listed_as_gone, "the list of runs to be of now")
    found = await stage.reap()
    assert (found.rows, found.stays) == (1, 2)
    assert (await stage.agent(goes)).state is AgentState.TERMINATED
    # The slots stay taken until the runtime says gone.
    assert (await stage.agent(hangs)).state is (await stage.agent(refuses)).state is AgentState.RUNNING
    monkeypatch.setattr(stage.runtime, "delete", delete)
    assert (await stage.reap()).rows == 2


# ---- scheduled starts -----------------------------------------------------------------------------------------------


async def running(stage: Stage, *starts: ScheduledView) -> None:
    async def listed() -> bool:
        return {each.scheduled_start_id for each in starts} <= (await stage.lives.scheduled.running()).keys()

    await until(listed, "the runs to be listed")


@pytest.mark.usefixtures("hasty")
async def test_run_of_a_scheduled_start_that_is_over_or_gone_ends_and_one_to_come_waits_on(stage: Stage) -> None:
    to_come, over, gone = [await booked(stage, name) for name in ("ann", "bob", "cat")]
    await running(stage, to_come, over, gone)
    await stage.sql(
        "UPDATE scheduled_starts SET state = 'rejected', reason = 'not_a_member', ended_at = now()"
        " WHERE scheduled_start_id = :s",
        s=over.scheduled_start_id,
    )
    await stage.sql("DELETE FROM scheduled_starts WHERE scheduled_start_id = :s", s=gone.scheduled_start_id)
    assert (await stage.reap()).scheduled_starts == 2
    assert await closed(stage, over) is WorkflowExecutionStatus.CANCELED
    assert await closed(stage, gone) is WorkflowExecutionStatus.CANCELED
    ended = await now_is(stage, over)
    assert (ended.state, ended.reason) == (ScheduledState.REJECTED, "not_a_member")
    assert await status(run_of(stage, to_come)) is _GOES_ON
    assert (await now_is(stage, to_come)).state is ScheduledState.SCHEDULED


async def test_run_of_a_scheduled_start_that_has_just_ended_is_left_to_end_by_itself(stage: Stage) -> None:
    start = await booked(stage)
    await running(stage, start)
    await stage.sql("DELETE FROM scheduled_starts")
    assert (await stage.reap()).scheduled_starts == 0
    assert await status(run_of(stage, start)) is _GOES_ON


# ---- what is told ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
async def test_each_kind_that_was_found_is_counted_and_nothing_else(stage: Stage) -> None:
    tally = Tally()
    await stage.started("ann")
    start = await booked(stage, "bob")
    await running(stage, start)
    await reaper(stage, tally).look()
    assert tally.counted == {}
    await take_row_away(stage, await stage.started("cat"))
    await stage.started("dan")
    await orphaned(stage, "dan")
    await stage.sql("DELETE FROM scheduled_starts")
    await reaper(stage, tally).look()
    kinds = {"workflow": 1, "object": 1, "row": 1, "scheduled_start": 1}
    assert tally.counted == {("berth_orphans_total", kind): number for kind, number in kinds.items()}


# ---- profiles -------------------------------------------------------------------------------------------------------


class _Disk(MemoryRuntime):
    """Keeps things that can be cleared away."""

    def __init__(self) -> None:
        super().__init__(Memory())
        self.asked: list[tuple[timedelta, set[str]]] = []

    async def prune(self, unused_for: timedelta, keep: Sequence[Owner]) -> Pruned:
        self.asked.append((unused_for, {each.user_id for each in keep}))
        return Pruned(profiles=2)


async def test_profiles_stay_unless_retention_says_for_how_long(stage: Stage) -> None:
    disk = _Disk()
    assert (await reaper(stage, runtime=disk).look()).profiles == 0
    assert disk.asked == []


async def test_profiles_that_nothing_used_for_too_long_go_once_an_hour(set_stage: SetStage) -> None:
    stage = await set_stage(retention=Retention(profile_idle_days=90))
    await row(stage, "bob")
    disk, tally = _Disk(), Tally()
    looks = reaper(stage, tally, disk)
    assert [(await looks.look()).profiles for _ in range(3)] == [2, 0, 0]
    assert disk.asked == [(timedelta(days=90), set())]
    assert tally.counted == {("berth_orphans_total", "profile"): 2}
