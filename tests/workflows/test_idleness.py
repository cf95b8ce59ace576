"""How long an agent may be left alone, and how long it may live at all."""

from datetime import UTC, datetime, timedelta

from core.db.repositories import commands
from core.domain.lifecycle import AgentState
from core.domain.timings import Timings
from tests.fixtures.stage import SetStage, Stage, until


async def test_idle_agent_is_warned_after_half_an_hour_and_goes_two_minutes_later(set_stage: SetStage) -> None:
    stage = await set_stage(Timings())
    agent_id = await stage.started()
    await stage.forward(1790)
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    await stage.forward(20)
    warned = await stage.until(agent_id, AgentState.DRAINING)
    assert (warned.reason, warned.keepable) == ("inactivity", True)
    assert warned.ready_at is not None
    assert warned.deadline_at is not None
    until_the_end = warned.deadline_at - warned.ready_at
    assert timedelta(seconds=1915) < until_the_end < timedelta(seconds=1945)
    warning = next(event for event in await stage.events(agent_id) if event.kind == "agent.warning")
    assert datetime.fromisoformat(warning.detail["deadlineAt"]) == warned.deadline_at
    await stage.forward(130)
    await stage.until(agent_id, AgentState.TERMINATED)
    assert (await stage.kinds(agent_id))[-4:] == ["ready", "warning", "draining", "terminated"]
    await stage.nothing_left()


async def test_use_of_an_agent_puts_its_idle_stop_off(set_stage: SetStage) -> None:
    stage = await set_stage(Timings())
    agent_id = await stage.started()
    await stage.sql("UPDATE agents SET last_activity_at = last_activity_at + interval '20 minutes'")
    await stage.forward(45 * 60)
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    await stage.forward(6 * 60)
    await stage.until(agent_id, AgentState.DRAINING)


async def handed_on_unused(stage: Stage, agent_id: str, minutes: int) -> None:
    """An agent that was used so long ago, and whose life has just gone on in a new run."""
    run_id = (await stage.workflow().describe()).run_id
    await stage.sql("UPDATE agents SET last_activity_at = now() - make_interval(mins => :m)", m=minutes)
    await stage.workflow().signal("hand_on")

    async def looked_in_the_next() -> bool:
        return (await stage.workflow().describe()).run_id != run_id and await looks(stage) > 0

    await until(looked_in_the_next, f"the next run of {agent_id} to look for activity")


async def test_time_an_agent_is_idle_goes_on_when_its_life_goes_on_in_a_new_run(set_stage: SetStage) -> None:
    stage = await set_stage(Timings())
    agent_id = await stage.started()
    await handed_on_unused(stage, agent_id, minutes=20)
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    await handed_on_unused(stage, agent_id, minutes=31)
    assert (await stage.until(agent_id, AgentState.DRAINING)).reason == "inactivity"


async def looks(stage: Stage) -> int:
    """How often its workflow has looked for activity."""
    events = (await stage.workflow().fetch_history()).events
    return sum(b'"look"' in event.marker_recorded_event_attributes.SerializeToString() for event in events)


async def test_task_that_takes_longer_than_an_agent_may_be_idle_is_not_cut_off(set_stage: SetStage) -> None:
    stage = await set_stage({"idle_seconds": 1, "grace_seconds": 600})
    agent_id = (await stage.start()).agent_id or ""
    await stage.command(agent_id, "run_task")

    async def looked_at() -> bool:
        return await looks(stage) >= 2

    await until(looked_at, "two looks for activity")
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    async with stage.db.transaction() as session:
        ended = await commands.finish(session, agent_id, "c", datetime.now(UTC), result={})
    assert ended is not None
    assert ended.ended_at is not None
    assert (await stage.until(agent_id, AgentState.DRAINING)).reason == "inactivity"
    warned = next(event for event in await stage.events(agent_id) if event.kind == "agent.warning")
    assert warned.at - ended.ended_at > timedelta(seconds=0.9), "who waited for the task has the idle time before him"


async def test_task_whose_time_is_over_without_an_answer_keeps_no_agent(set_stage: SetStage) -> None:
    stage = await set_stage({"idle_seconds": 1})
    agent_id = (await stage.start()).agent_id or ""
    await stage.command(agent_id, "run_task", within=timedelta(0))
    await stage.until(agent_id, AgentState.DRAINING)


async def test_agent_that_reached_its_greatest_age_is_warned_although_it_is_used(set_stage: SetStage) -> None:
    stage = await set_stage(Timings(max_life_seconds=3600))
    agent_id = await stage.started()
    await stage.sql("UPDATE agents SET last_activity_at = last_activity_at + interval '2 hours'")
    await stage.forward(3590)
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    await stage.forward(20)
    assert (await stage.until(agent_id, AgentState.DRAINING)).reason == "max_life"


async def waited_then_ran(set_stage: SetStage) -> tuple[Stage, str]:
    """An agent that may live for an hour, and stood in line for two before it began."""
    stage = await set_stage({"max_life_seconds": 3600, "idle_seconds": 36000, "grace_seconds": 0}, capacity=1)
    holder = await stage.started("bob")
    agent_id = await stage.queued()
    await stage.forward(7200)
    await stage.stop(holder)
    await stage.until(agent_id, AgentState.RUNNING)
    return stage, agent_id


async def test_time_in_line_is_no_part_of_an_agents_age(set_stage: SetStage) -> None:
    stage, agent_id = await waited_then_ran(set_stage)
    await stage.sql("UPDATE agents SET last_activity_at = last_activity_at + interval '3 hours'")
    await stage.forward(3590)
    assert (await stage.agent(agent_id)).state is AgentState.RUNNING
    await stage.forward(20)
    assert (await stage.until(agent_id, AgentState.TERMINATED)).reason == "max_life"
