"""Machines that run short: who is away leaves first, then the oldest of the lowest tier, and the others live on."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from temporalio.testing import ActivityEnvironment

from activities.lives import LifeActivities
from activities.messages import Emergency, Evictions, PressureLook, PressureSeen
from activities.pressure import PressureActivities
from activities.reaping import ReapingActivities
from core.db.repositories import commands
from core.domain.lifecycle import AgentState
from core.domain.orders import StartOutcome, StopOrder
from core.domain.pressure import EvictReason
from core.domain.recovery import FailureKind
from core.domain.templates import Resources, Template
from core.domain.thresholds import Thresholds
from core.errors import Unavailable
from core.runtime.base import AgentRuntime, Owner, Pruned
from core.runtime.memory import MemoryRuntime
from core.settings import Memory, Retention
from temporal import schedules
from tests.fixtures.refusals import refuse_signals
from tests.fixtures.stage import SetStage, Stage, until
from tests.workflows.test_housekeeping import ended, refuse_to_delete
from workflows.options import CONTROL_QUEUE
from workflows.pressure import PressureWatch

# Each agent takes a tenth of the simulated machines' memory.
TENTHS = Memory(start_seconds=0.02, stop_seconds=0.02, agent_memory_percent=10)


async def looked(stage: Stage) -> PressureSeen:
    """One look for pressure, upon what the machines report now."""
    await measured(stage)
    name = f"pressure-{uuid.uuid4()}"
    return await stage.client.execute_workflow(PressureWatch.run, id=name, task_queue=CONTROL_QUEUE)


async def measured(stage: Stage) -> None:
    """The sampler has stored what the machines report now."""
    now = (await stage.runtime.capacity()).memory_percent

    async def stored() -> bool:
        [row] = await stage.sql("SELECT detail -> 'load' ->> 'memoryPercent' AS percent FROM clusters")
        return row["percent"] is not None and float(row["percent"]) == now

    await until(stored, f"a look that sees {now} % of the memory in use")


async def absent(stage: Stage, *agent_ids: str) -> None:
    """Their users went away: the longer, the earlier in the list."""
    for n, agent_id in enumerate(agent_ids):
        ago = timedelta(minutes=60 - n)
        await stage.sql(
            "UPDATE agents SET last_activity_at = last_activity_at - CAST(:ago AS interval) WHERE agent_id = :a",
            ago=ago,
            a=agent_id,
        )


async def states(stage: Stage, *agent_ids: str) -> list[AgentState]:
    return [(await stage.agent(agent_id)).state for agent_id in agent_ids]


@pytest_asyncio.fixture
async def short(set_stage: SetStage) -> Stage:
    """Room for nine by the threshold, of which each takes a tenth; a grace that lasts, so that leaving is seen."""
    return await set_stage({"grace_seconds": 600, "idle_seconds": 36000}, capacity=20, memory=TENTHS)


async def test_nobody_has_to_leave_while_memory_is_within_its_threshold(short: Stage) -> None:
    agent_id = await short.started()
    await absent(short, agent_id)
    assert await looked(short) == PressureSeen()
    assert await states(short, agent_id) == [AgentState.RUNNING]


async def test_users_who_are_away_go_first_with_warning_reason_and_numbers(short: Stage) -> None:
    lives = [await short.started(f"user{n}") for n in range(4)]
    await absent(short, lives[2], lives[0])
    short.runtime.pretend(memory_percent=55.0)
    found = await looked(short)
    assert [(each.eviction.agent_id, each.eviction.reason) for each in found.leaving] == [
        (lives[2], EvictReason.AWAY),
        (lives[0], EvictReason.AWAY),
    ]
    for agent_id in (lives[2], lives[0]):
        await short.until(agent_id, AgentState.DRAINING)
    assert await states(short, lives[1], lives[3]) == [AgentState.RUNNING] * 2
    warned = await short.agent(lives[0])
    assert (warned.reason, warned.keepable) == ("resource_pressure", False)
    assert warned.deadline_at is not None
    told = {event.kind.value: event.detail for event in await short.events(lives[0])}
    assert told["agent.evicted"]["detail"] == "memory 95 % (limit 90 %); not used for 59 min"
    assert told["agent.evicted"]["memoryPercent"] == 95
    assert told["agent.evicted"]["memoryLimit"] == 90
    assert (await short.sql("SELECT evictions FROM clusters"))[0]["evictions"] == {"user_away": 2}


async def test_user_whose_long_task_was_just_answered_is_not_away(short: Stage) -> None:
    agent_id = await short.started()
    await short.command(agent_id, "run_task")
    async with short.db.transaction() as session:
        assert await commands.finish(session, agent_id, "c", datetime.now(UTC), result={}) is not None
    await absent(short, agent_id)
    short.runtime.pretend(memory_percent=85.0)
    assert (await looked(short)).leaving == ()
    assert await states(short, agent_id) == [AgentState.RUNNING]


async def test_pressure_that_lasts_costs_the_oldest_of_the_lowest_tier_and_a_task_is_spared(short: Stage) -> None:
    enterprise = await short.started("rich", tier="enterprise")
    busy = await short.started("busy")
    await short.sql(
        "INSERT INTO commands (agent_id, command_id, attempt, name, parameters, deadline_at, state)"
        " VALUES (:a, 'c1', 1, 'run_task', '{}', now() + interval '1 hour', 'sent')",
        a=busy,
    )
    crowd = [await short.started(f"user{n}") for n in range(5)]
    short.runtime.pretend(memory_percent=25.0)
    assert (await looked(short)).leaving == ()
    found = await looked(short)
    assert [each.eviction.agent_id for each in found.leaving] == crowd
    assert {each.eviction.reason for each in found.leaving} == {EvictReason.OLDEST}
    for agent_id in crowd:
        await short.until(agent_id, AgentState.DRAINING)
    # Those five are on their way: nobody else is asked while that may be enough.
    assert (await looked(short)).leaving == ()
    assert await states(short, enterprise, busy) == [AgentState.RUNNING] * 2


async def test_look_between_two_short_ones_that_finds_memory_free_begins_anew(short: Stage) -> None:
    agent_id = await short.started()
    short.runtime.pretend(memory_percent=85.0)
    await looked(short)
    short.runtime.pretend(memory_percent=10.0)
    await looked(short)
    short.runtime.pretend(memory_percent=85.0)
    assert (await looked(short)).leaving == ()
    assert await states(short, agent_id) == [AgentState.RUNNING]


async def test_first_look_after_nobody_looked_for_long_costs_nobody_who_is_there(short: Stage) -> None:
    agent_id = await short.started()
    short.runtime.pretend(memory_percent=85.0)
    await looked(short)
    await short.sql("UPDATE clusters SET pressure_since = pressure_since - interval '1 hour'")
    assert (await looked(short)).leaving == ()
    assert await states(short, agent_id) == [AgentState.RUNNING]
    assert [each.eviction.agent_id for each in (await looked(short)).leaving] == [agent_id]


async def test_tier_that_a_user_has_now_decides_who_leaves_first(short: Stage) -> None:
    raised, lowered = await short.started("ann"), await short.started("bob", tier="enterprise")
    await short.member("ann", tier="enterprise")
    await short.member("bob")
    short.runtime.pretend(memory_percent=75.0)
    await looked(short)
    assert [each.eviction.agent_id for each in (await looked(short)).leaving] == [lowered, raised]


async def test_door_shuts_opens_five_points_lower_and_lets_in_who_waited(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 0, "idle_seconds": 36000}, capacity=20, memory=TENTHS)
    lives = [await stage.started(f"user{n}") for n in range(2)]
    stage.runtime.pretend(memory_percent=71.0)
    await measured(stage)
    waiting = await stage.queued("new")
    assert (await stage.agent(waiting)).reason == "insufficient_cluster_resources"
    queued = next(event for event in await stage.events(waiting) if event.kind.value == "agent.queued")
    assert queued.detail["over"] == "memory 91 % (limit 90 %)"
    stage.runtime.pretend(memory_percent=66.0)
    await measured(stage)
    assert (await stage.sql("SELECT choked FROM clusters"))[0]["choked"]
    stage.runtime.pretend(memory_percent=71.0)
    await absent(stage, lives[0])
    assert len((await looked(stage)).leaving) == 1
    await stage.until(lives[0], AgentState.TERMINATED)
    # One of them gone it is 81 %: below where the door opens again.
    await stage.until(waiting, AgentState.RUNNING)
    assert await states(stage, lives[1]) == [AgentState.RUNNING]


async def test_nobody_is_evicted_upon_a_look_that_is_too_old(short: Stage) -> None:
    agent_id = await short.started()
    await absent(short, agent_id)
    short.runtime.pretend(memory_percent=85.0)
    await measured(short)
    await short.worker_down()
    await short.sql("UPDATE clusters SET measured_at = measured_at - interval '2 minutes'")
    found = await blind(short)
    assert found == PressureSeen()
    assert await states(short, agent_id) == [AgentState.RUNNING]


async def test_memory_that_was_short_before_nobody_could_look_has_not_lasted(short: Stage) -> None:
    agent_id = await short.started()
    short.runtime.pretend(memory_percent=85.0)
    await measured(short)
    assert await blind(short) == PressureSeen()
    await short.worker_down()
    await short.sql("UPDATE clusters SET measured_at = measured_at - interval '2 minutes'")
    await blind(short)
    await short.sql("UPDATE clusters SET measured_at = now()")
    assert await blind(short) == PressureSeen()
    [forced] = (await blind(short, datetime.now(UTC) + timedelta(seconds=30))).leaving
    assert forced.eviction.agent_id == agent_id


async def test_look_that_is_tried_once_more_is_the_same_look_and_not_a_later_one(short: Stage) -> None:
    agent_id = await short.started()
    short.runtime.pretend(memory_percent=85.0)
    await measured(short)
    at = datetime.now(UTC)
    assert [await blind(short, at), await blind(short, at)] == [PressureSeen()] * 2
    [forced] = (await blind(short, at + timedelta(seconds=30))).leaving
    assert (forced.eviction.agent_id, forced.eviction.reason) == (agent_id, EvictReason.OLDEST)
    # Looking alone orders nothing.
    assert await states(short, agent_id) == [AgentState.RUNNING]


async def test_eviction_that_is_ordered_twice_is_counted_once_and_the_grace_stays(short: Stage) -> None:
    agent_id = await short.started()
    await absent(short, agent_id)
    short.runtime.pretend(memory_percent=85.0)
    found = await looked(short)
    before = await short.until(agent_id, AgentState.DRAINING)
    await ActivityEnvironment().run(acting(short).evict_agents, Evictions(at=datetime.now(UTC), leaving=found.leaving))
    assert await short.agent(agent_id) == before
    assert (await short.sql("SELECT evictions FROM clusters"))[0]["evictions"] == {"user_away": 1}


async def test_eviction_whose_order_is_lost_on_the_way_is_given_again_and_counted_once(
    short: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id = await short.started()
    await absent(short, agent_id)
    order, lost = short.lives.order_stop, iter([True, True])

    async def lost_twice(workflow_id: str, stop: StopOrder) -> bool:
        if next(lost, False):
            raise Unavailable("Temporal does not answer", code="temporal_unavailable")
        return await order(workflow_id, stop)

    monkeypatch.setattr(short.lives, "order_stop", lost_twice)
    short.runtime.pretend(memory_percent=85.0)
    assert len((await looked(short)).leaving) == 1
    await short.until(agent_id, AgentState.DRAINING)
    assert (await short.sql("SELECT evictions FROM clusters"))[0]["evictions"] == {"user_away": 1}


async def test_life_that_takes_no_signal_keeps_nobody_behind_it_from_leaving(
    short: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = [await short.started(f"user{n}") for n in range(2)]
    await absent(short, *lives)
    refuse_signals(monkeypatch, short, "user0", "order_stop")
    short.runtime.pretend(memory_percent=75.0)
    assert [each.eviction.agent_id for each in (await looked(short)).leaving] == lives
    await short.until(lives[1], AgentState.DRAINING)
    assert await states(short, lives[0]) == [AgentState.RUNNING]


async def test_emergency_takes_profiles_unused_for_the_days_of_the_settings_and_none_of_whoever_lives_or_waits(
    set_stage: SetStage,
) -> None:
    stage = await set_stage(retention=Retention(profile_days=12, profile_idle_days=90))
    await stage.started("ann")
    await stage.sql("INSERT INTO pool_overrides (pool, paused) VALUES ('default', true)")
    await stage.queued("bob")
    disk = _Disk()
    emergency = Emergency(at=datetime.now(UTC), clusters=("local",))
    cleared = await ActivityEnvironment().run(acting(stage, disk).clear_disks, emergency)
    assert cleared.profiles == 7
    assert disk.asked == [(timedelta(days=12), {("ann", "shop"), ("bob", "shop")})]


async def test_emergency_forgets_agents_that_ended_longer_ago_than_they_are_kept(set_stage: SetStage) -> None:
    stage = await set_stage(retention=Retention(agent_days=12))
    await ended(stage, "ann", days_ago=13)
    recent = await ended(stage, "bob", days_ago=11)
    emergency = Emergency(at=datetime.now(UTC), clusters=("local",))
    await ActivityEnvironment().run(acting(stage).clear_disks, emergency)
    assert [row["agent_id"] for row in await stage.sql("SELECT agent_id FROM agents")] == [recent]


async def test_emergency_takes_profiles_also_where_rows_cannot_be_deleted(set_stage: SetStage) -> None:
    stage, disk = await set_stage(retention=Retention(agent_days=12)), _Disk()
    await ended(stage, "ann", days_ago=13)
    await refuse_to_delete(stage, "events")
    emergency = Emergency(at=datetime.now(UTC), clusters=("local",))
    assert (await ActivityEnvironment().run(acting(stage, disk).clear_disks, emergency)).profiles == 7


class _Disk(MemoryRuntime):
    """Keeps things that can be cleared away."""

    def __init__(self) -> None:
        super().__init__(Memory())
        self.asked: list[tuple[timedelta, set[tuple[str, str]]]] = []

    async def prune(self, unused_for: timedelta, keep: Sequence[Owner]) -> Pruned:
        self.asked.append((unused_for, {(each.user_id, each.project_id) for each in keep}))
        return Pruned(profiles=7)


async def blind(stage: Stage, at: datetime | None = None) -> PressureSeen:
    """A look, by a worker that cannot measure the machines itself."""
    return await acting(stage).look_for_pressure(PressureLook(at=at or datetime.now(UTC)))


def acting(stage: Stage, runtime: AgentRuntime | None = None) -> PressureActivities:
    """The activities themselves, called by hand."""
    runtimes = {} if runtime is None else {"memory": runtime}
    lives = LifeActivities(stage.db, stage.settings, stage.lives)
    reaping = ReapingActivities(stage.db, stage.settings, stage.lives, runtimes, lives)
    return PressureActivities(stage.db, stage.settings, stage.lives, runtimes, reaping)


async def test_full_disk_queues_everybody_as_an_emergency_and_is_cleared(short: Stage) -> None:
    await ended(short, "ann", days_ago=31)
    short.runtime.pretend(disk_percent=95.0, memory_percent=1.0)
    found = await looked(short)
    assert found.emergencies == ("local",)
    assert await short.sql("SELECT 1 FROM agents") == []
    waiting = await short.queued()
    assert (await short.agent(waiting)).reason == "disk_emergency"


async def test_schedule_looks_every_interval(stage: Stage) -> None:
    await schedules.ensure(stage.client, reap_seconds=600, pressure_seconds=600)
    await schedules.ensure(stage.client, reap_seconds=600, pressure_seconds=1)
    handle = stage.client.get_schedule_handle(schedules.PRESSURE_SCHEDULE)

    async def happened() -> bool:
        return (await handle.describe()).info.num_actions >= 2

    await until(happened, "the schedule to have run twice")


async def test_door_that_was_shut_stays_shut_for_a_worker_that_begins_anew(short: Stage) -> None:
    short.runtime.pretend(memory_percent=95.0)
    await measured(short)
    await short.worker_down()
    short.runtime.pretend(memory_percent=88.0)
    await short.worker_up()
    assert (await short.sql("SELECT choked FROM clusters"))[0]["choked"]
    short.runtime.pretend(memory_percent=84.0)
    await measured(short)
    assert not (await short.sql("SELECT choked FROM clusters"))[0]["choked"]


async def test_network_over_its_threshold_shuts_the_door_with_its_number(set_stage: SetStage) -> None:
    stage = await set_stage(thresholds=Thresholds(network_mbit=800), memory=Memory(network_mbit=900, memory_percent=1))
    await measured(stage)
    waiting = await stage.queued()
    [queued] = [event for event in await stage.events(waiting) if event.kind.value == "agent.queued"]
    assert queued.detail["over"] == "network 900 Mbit/s (limit 800 Mbit/s)"
    assert (queued.detail["networkMbit"], queued.detail["networkLimit"]) == (900, 800)


async def test_template_larger_than_every_machine_is_refused_at_once(set_stage: SetStage) -> None:
    huge = Template(resources=Resources(cpu=5000, cpu_limit=5000))
    stage = await set_stage(templates={"huge": huge})
    answer = await stage.start(template="huge")
    assert (answer.outcome, answer.reason) == (StartOutcome.REJECTED, "never_satisfiable")
    await stage.until_closed()
    await stage.started()


async def test_verdict_that_no_machine_takes_an_agent_keeps_the_next_in_line_until_one_frees(stage: Stage) -> None:
    lives = [await stage.started("ann"), await stage.started("bob")]
    await stage.fail(lives[1], FailureKind.UNSCHEDULABLE)
    await stage.until(lives[1], AgentState.FAILED)
    waiting = await stage.queued("cat")
    assert (await stage.agent(waiting)).reason == "no_suitable_node"
    await stage.stop(lives[0])
    await stage.until(waiting, AgentState.RUNNING)
