"""What follows a failure: another attempt after a pause, or the end."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from activities.contracts import Life, Restarting
from activities.lives import LifeActivities
from core.db.repositories import agents, commands
from core.db.repositories.commands import CommandState
from core.domain.lifecycle import AgentState
from core.domain.orders import StartOutcome, Verdict
from core.domain.recovery import FailureKind
from core.domain.templates import Simulation, Template
from core.domain.timings import Timings
from core.errors import RuntimePermanent, RuntimeRetryable
from core.runtime.base import AgentSpec, Created, Observation, Phase, Usage
from tests.fakes.stubborn import Stubborn
from tests.fixtures.locks import until_locked_out
from tests.fixtures.stage import SetStage, Stage


async def restarts(stage: Stage, agent_id: str) -> list[tuple[str | None, float]]:
    """Reason and pause of each restart."""
    return [
        (event.reason, event.detail["afterSeconds"])
        for event in await stage.events(agent_id)
        if event.kind == "agent.restarting"
    ]


async def test_silent_agent_is_restarted_after_two_four_and_eight_seconds_then_failed(set_stage: SetStage) -> None:
    mute = {"default": Template(simulation=Simulation(never_ready=True))}
    stage = await set_stage(Timings(), templates=mute)
    agent_id = (await stage.start()).agent_id or ""
    await stage.exists(agent_id)
    await stage.forward(4 * 90 + 2 + 4 + 8 + 1)
    failed = await stage.until(agent_id, AgentState.FAILED)
    assert (failed.reason, failed.restart_count, failed.attempt) == ("start_deadline", 3, 4)
    assert await restarts(stage, agent_id) == [("start_deadline", pause) for pause in (2, 4, 8)]
    await stage.nothing_left()


async def test_crashed_agent_comes_back_as_its_next_attempt_and_the_fourth_crash_ends_it(stage: Stage) -> None:
    agent_id = await stage.started()
    for attempt in (1, 2, 3):
        await stage.fail(agent_id, FailureKind.OUT_OF_MEMORY, attempt=attempt)
        await stage.until(agent_id, AgentState.RESTARTING)
        agent = await stage.until(agent_id, AgentState.RUNNING)
        assert (agent.attempt, agent.restart_count) == (attempt + 1, attempt)
    await stage.fail(agent_id, FailureKind.OUT_OF_MEMORY)
    assert (await stage.until(agent_id, AgentState.FAILED)).reason == "out_of_memory"
    assert await restarts(stage, agent_id) == [("out_of_memory", pause) for pause in (0.1, 0.2, 0.4)]
    await stage.nothing_left()
    # A failed agent frees the quota: the next start is a new life.
    again = await stage.start()
    assert again.outcome is StartOutcome.CREATED
    assert again.agent_id != agent_id


async def test_ten_healthy_minutes_forgive_earlier_restarts(set_stage: SetStage) -> None:
    stage = await set_stage({"healthy_seconds": 600, "idle_seconds": 7200})
    agent_id = await stage.started()
    for attempt in (1, 2):
        await stage.fail(agent_id, attempt=attempt)
        await stage.until(agent_id, AgentState.RESTARTING)
        await stage.until(agent_id, AgentState.RUNNING)
    await stage.forward(601)
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    agent = await stage.until(agent_id, AgentState.RUNNING)
    assert agent.restart_count == 1
    assert [pause for _, pause in await restarts(stage, agent_id)] == [0.1, 0.2, 0.1]


async def test_agent_that_cannot_start_is_not_tried_again(set_stage: SetStage) -> None:
    templates = {"default": Template(simulation=Simulation(exit_after_seconds=0.05, exit_code=78, never_ready=True))}
    stage = await set_stage(templates=templates)
    agent_id = (await stage.start()).agent_id or ""
    failed = await stage.until(agent_id, AgentState.FAILED)
    assert (failed.reason, failed.restart_count) == ("cannot_start", 0)
    await stage.nothing_left()


async def test_creation_that_fails_twice_is_tried_again_without_a_restart(set_stage: SetStage) -> None:
    stage = await set_stage(templates={"default": Template(simulation=Simulation(fail_create=2))})
    agent_id = await stage.started()
    assert (await stage.agent(agent_id)).attempt == 1
    assert await restarts(stage, agent_id) == []


async def test_agent_that_exits_by_itself_is_seen_and_restarted(set_stage: SetStage) -> None:
    templates = {"default": Template(simulation=Simulation(exit_after_seconds=0.3, exit_code=75))}
    stage = await set_stage(templates=templates)
    agent_id = await stage.started()
    await stage.until(agent_id, AgentState.RESTARTING)
    assert (await restarts(stage, agent_id))[0] == ("crash", 0.1)
    await stage.stop(agent_id)
    await stage.nothing_left()


async def test_restart_that_its_user_asked_for_counts_as_none(stage: Stage) -> None:
    agent_id = await stage.started()
    for attempt in (2, 3, 4, 5, 6):
        await stage.lives.restart(await stage.agent(agent_id))
        assert (await stage.until_runs(agent_id, attempt)).restart_count == 0


@pytest.mark.parametrize(
    ("kind", "becomes"), [(FailureKind.CRASH, AgentState.RUNNING), (FailureKind.IMAGE_PULL, AgentState.FAILED)]
)
async def test_restart_that_is_asked_for_hides_no_failure_that_came_before_it(
    stage: Stage, kind: FailureKind, becomes: AgentState
) -> None:
    agent_id = await stage.started()
    await stage.worker_down()
    await stage.fail(agent_id, kind)
    await stage.lives.restart(await stage.agent(agent_id))
    await stage.worker_up()
    if becomes is AgentState.RUNNING:
        assert (await stage.until_runs(agent_id, 2)).restart_count == 1
        assert await restarts(stage, agent_id) == [(kind, 0.1)]
    else:
        assert (await stage.until(agent_id, AgentState.FAILED)).reason == kind


async def test_machine_that_goes_down_again_and_again_fails_no_healthy_agent(stage: Stage) -> None:
    agent_id = await stage.started()
    for attempt in (2, 3, 4, 5, 6):
        await stage.fail(agent_id, FailureKind.HOST_LOST)
        assert (await stage.until_runs(agent_id, attempt)).restart_count == 0


async def lost_its_host_after_three_crashes(stage: Stage) -> str:
    """Id of an agent whose machine, which had crashed it before, went down at last: it runs on another."""
    agent_id = await stage.started()
    for attempt in (2, 3, 4):
        await stage.fail(agent_id, FailureKind.CRASH)
        await stage.until_runs(agent_id, attempt)
    await stage.fail(agent_id, FailureKind.HOST_LOST)
    await stage.until_runs(agent_id, 5)
    return agent_id


async def test_machine_that_crashed_an_agent_before_it_went_down_does_not_fail_it_by_that(stage: Stage) -> None:
    agent_id = await lost_its_host_after_three_crashes(stage)
    assert (await stage.agent(agent_id)).restart_count == 3
    await stage.fail(agent_id, FailureKind.CRASH)
    assert (await stage.until(agent_id, AgentState.FAILED)).reason == "crash"


@pytest.mark.parametrize("kind", [FailureKind.CRASH, FailureKind.HEALTH])
async def test_stop_in_the_pause_before_a_restart_ends_the_life_at_once(set_stage: SetStage, kind: FailureKind) -> None:
    stage = await set_stage({"restart_backoff_seconds": 600, "grace_seconds": 600})
    agent_id = await stage.started()
    await stage.fail(agent_id, kind)
    restarting = await stage.until(agent_id, AgentState.RESTARTING)
    assert restarting.deadline_at is not None
    assert restarting.started_at is not None
    assert restarting.deadline_at - restarting.started_at > timedelta(seconds=599)
    await stage.stop(agent_id, "inactivity", grace_seconds=300)
    await stage.until(agent_id, AgentState.TERMINATED)
    assert (await stage.kinds(agent_id))[-3:] == ["restarting", "draining", "terminated"]
    await stage.nothing_left()


async def test_answer_that_comes_while_a_restart_is_noted_is_kept_and_neither_locks_the_other_out(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.command(agent_id, "state")
    life = Life(agent_id=agent_id, attempt=1, user_id="ann", project_id="shop", pool="default", template="default",
                runtime="memory")  # fmt: skip
    note = Restarting(life=life, kind="crash", detail="", after_seconds=0, restarts=1)

    async with stage.db.transaction() as session:
        await agents.lock(session, agent_id)
        noted = asyncio.create_task(LifeActivities(stage.db, stage.settings, stage.lives).mark_restarting(note))
        await until_locked_out(stage, 1, "the restart to wait for the agent's row")
        ended = await commands.finish(session, agent_id, "c", datetime.now(UTC), attempt=1, result={"said": "all"})
    assert ended is not None
    assert (await noted).applied
    async with stage.db.transaction() as session:
        kept = await commands.get(session, agent_id, "c")
    assert kept is not None
    assert (kept.state, kept.result) == (CommandState.DONE, {"said": "all"})


async def test_agent_that_misses_its_deadline_is_told_why_by_the_runtime(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = {"default": Template(simulation=Simulation(never_ready=True))}
    stage = await set_stage({"ready_deadline_seconds": 0.5}, templates=mute)
    observe = stage.runtime.observe

    async def full(agent_id: str, attempt: int) -> Observation:
        seen = await observe(agent_id, attempt)
        return seen.model_copy(
            update={"failure": FailureKind.UNSCHEDULABLE, "detail": "no machine has enough cpu free"}
        )

    monkeypatch.setattr(stage.runtime, "observe", full)
    agent_id = (await stage.start()).agent_id or ""
    assert (await stage.until(agent_id, AgentState.QUEUED)).reason == "no_suitable_node"
    ends = [event for event in await stage.events(agent_id) if event.kind == "agent.restarting"]
    assert ends[0].reason == "start_deadline"
    assert ends[0].detail["detail"] == "not usable within 0.5 s: no machine has enough cpu free"


async def test_agent_that_is_still_being_made_at_its_deadline_is_given_up_before_the_next_one(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage({"ready_deadline_seconds": 3})
    make, at_last, given_up = stage.runtime.create, asyncio.Event(), asyncio.Event()

    async def slowly(spec: AgentSpec) -> Created:
        if spec.attempt == 1:
            try:
                await at_last.wait()
            except asyncio.CancelledError:
                given_up.set()
                raise
        return await make(spec)

    monkeypatch.setattr(stage.runtime, "create", slowly)
    agent_id = (await stage.start()).agent_id or ""
    running = await stage.until(agent_id, AgentState.RUNNING)
    at_last.set()
    assert (running.attempt, given_up.is_set()) == (2, True)
    assert [reason for reason, _ in await restarts(stage, agent_id)] == ["start_deadline"]


@pytest.mark.parametrize("phase", [Phase.READY, Phase.EXITED])
async def test_what_a_watcher_missed_is_found_out_at_the_deadline(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    mute = {"default": Template(simulation=Simulation(never_ready=True))}
    stage = await set_stage({"ready_deadline_seconds": 0.5}, templates=mute)
    observe = stage.runtime.observe

    async def unseen(agent_id: str, attempt: int) -> Observation:
        failure = FailureKind.IMAGE_PULL if phase is Phase.EXITED else None
        return (await observe(agent_id, attempt)).model_copy(update={"phase": phase, "failure": failure})

    monkeypatch.setattr(stage.runtime, "observe", unseen)
    agent_id = (await stage.start()).agent_id or ""
    if phase is Phase.READY:
        await stage.until(agent_id, AgentState.RUNNING)
        await stage.stop(agent_id)
    else:
        assert (await stage.until(agent_id, AgentState.FAILED)).reason == "image_pull"


async def test_quota_of_the_cluster_is_the_reason_when_it_kept_an_agent_from_being_made(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage({"ready_deadline_seconds": 1, "restart_backoff_seconds": 0.01})

    async def refused(spec: AgentSpec) -> Created:
        raise RuntimeRetryable("the cluster's quota agents is used up", code="cluster_quota_exceeded")

    monkeypatch.setattr(stage.runtime, "create", refused)
    agent_id = (await stage.start()).agent_id or ""
    failed = await stage.until(agent_id, AgentState.FAILED)
    assert failed.reason == FailureKind.QUOTA_EXCEEDED
    assert {reason for reason, _ in await restarts(stage, agent_id)} == {FailureKind.QUOTA_EXCEEDED}


async def test_agent_whose_template_was_taken_out_of_the_settings_fails_at_once_and_says_why(
    set_stage: SetStage,
) -> None:
    stage = await set_stage(templates={"gone": Template()})
    agent_id = await stage.started(template="gone")
    del stage.settings.templates["gone"]
    moved = await stage.lives.migrate(await stage.agent(agent_id))
    assert (moved.verdict, moved.detail) == (Verdict.REFUSED, "its template is not in the settings any more")
    await stage.fail(agent_id)
    failed = await stage.until(agent_id, AgentState.FAILED)
    assert (failed.reason, failed.attempt) == (FailureKind.CANNOT_START, 2)
    assert (await stage.events(agent_id))[-1].detail["detail"] == "its template is not in the settings any more"
    await stage.nothing_left()


async def test_user_reads_what_the_runtime_said_and_not_what_we_call_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(spec: AgentSpec) -> Created:
        raise RuntimePermanent("no such program")

    monkeypatch.setattr(stage.runtime, "create", refused)
    agent_id = (await stage.start()).agent_id or ""
    await stage.until(agent_id, AgentState.FAILED)
    assert (await stage.events(agent_id))[-1].detail["detail"] == "no such program"


async def test_what_every_attempt_used_is_told_at_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = stage.runtime.delete
    used = {1: Usage(cpu_seconds=40, peak_memory_bytes=900), 2: Usage(), 3: Usage(cpu_seconds=2, peak_memory_bytes=500)}

    async def measured(agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        await delete(agent_id, attempt, grace_seconds)
        return used[attempt]

    monkeypatch.setattr(stage.runtime, "delete", measured)
    agent_id = await stage.started()
    for _ in range(2):
        await stage.fail(agent_id)
        await stage.until(agent_id, AgentState.RESTARTING)
        await stage.until(agent_id, AgentState.RUNNING)
    # Known to its next run, too.
    await stage.workflow().signal("hand_on")
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    told = (await stage.events(agent_id))[-1].detail["usage"]
    assert (told["cpuSeconds"], told["peakMemoryBytes"]) == (42, 900)


async def test_attempt_that_is_removed_for_a_restart_and_again_for_a_stop_is_counted_once(stage: Stage) -> None:
    agent_id = await stage.started()
    # A runtime that measures nothing: what an attempt used is its own last word, however often it is asked for.
    health = """UPDATE channels SET health = '{"cpuSeconds": 40.0, "peakMemoryBytes": 900}' WHERE agent_id = :a"""
    await stage.sql(health, a=agent_id)
    stubborn = Stubborn(stage.runtime)
    await stage.lives.restart(await stage.agent(agent_id))
    await asyncio.wait_for(stubborn.asked.wait(), 10)
    await stage.stop(agent_id, force=True)
    await stage.until(agent_id, AgentState.TERMINATED)
    told = (await stage.events(agent_id))[-1].detail["usage"]
    assert (told["cpuSeconds"], told["peakMemoryBytes"]) == (40.0, 900)
