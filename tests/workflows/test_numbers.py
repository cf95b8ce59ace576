"""What a worker counts of lives: every turn once, and how long each state lasted."""

import pytest
from structlog.testing import capture_logs

from activities.contracts import Final, Life
from activities.lives import LifeActivities, life_of
from activities.ports import RUNTIME_ERRORS
from activities.turns import FAILURES, RESTARTS, STATE_SECONDS, TRANSITIONS
from core.domain.lifecycle import AgentState, EndReason
from core.domain.recovery import FailureKind
from core.errors import RuntimePermanent
from core.runtime.base import AgentSpec, Created
from tests.fakes.meter import RememberingMeter
from tests.fixtures.stage import SetStage, Stage
from tests.workflows.test_rejoining import BRIEF, crowded_out


def turns(stage: Stage) -> dict[tuple[str, ...], int]:
    return stage.meter.counted(TRANSITIONS, "to", "reason")


def seconds(stage: Stage, state: AgentState) -> list[float]:
    return stage.meter.values(STATE_SECONDS, state=state.value)


async def life(stage: Stage, agent_id: str) -> Life:
    return life_of(await stage.agent(agent_id))


async def test_every_turn_of_a_life_is_counted_once(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()
    assert turns(stage) == {
        ("starting", "none"): 1,
        ("running", "none"): 1,
        ("draining", "user_requested"): 1,
        ("terminated", "user_requested"): 1,
    }
    assert not stage.meter.counted(FAILURES, "kind")


async def test_time_in_a_state_is_what_the_events_tell(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()
    at = {event.kind.removeprefix("agent."): event.at for event in await stage.events(agent_id)}
    for state, came, left in (
        (AgentState.STARTING, "admitted", "ready"),
        (AgentState.RUNNING, "ready", "draining"),
        (AgentState.DRAINING, "draining", "terminated"),
    ):
        assert seconds(stage, state) == [(at[left] - at[came]).total_seconds()]


async def test_a_warning_of_something_else_does_not_begin_a_state_anew(set_stage: SetStage) -> None:
    stage = await set_stage({"grace_seconds": 30})
    agent_id = await stage.started()
    await stage.stop(agent_id, "inactivity")
    await stage.until(agent_id, AgentState.DRAINING)
    # Another end of the grace is told by another event of the same state.
    await stage.stop(agent_id, "user_requested", grace_seconds=0)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()
    log = [event for event in await stage.events(agent_id) if event.state is AgentState.DRAINING]
    (ended,) = [event for event in await stage.events(agent_id) if event.state is AgentState.TERMINATED]
    assert len(log) > 2
    assert seconds(stage, AgentState.DRAINING) == [(ended.at - log[0].at).total_seconds()]


async def test_wait_in_line_and_the_grant_are_counted(set_stage: SetStage) -> None:
    stage = await set_stage(capacity=1)
    first = await stage.started()
    second = await stage.queued("bob", "bank")
    await stage.stop(first, grace_seconds=0)
    agent = await stage.until(second, AgentState.RUNNING)
    assert agent.started_at is not None
    (waited,) = seconds(stage, AgentState.QUEUED)
    assert 0 < waited <= (agent.started_at - agent.created_at).total_seconds()
    assert turns(stage)["queued", "no_suitable_node"] == 1
    assert turns(stage)["starting", "none"] == 2


async def test_restart_that_waited_for_room_is_counted_and_logged_in_every_state(set_stage: SetStage) -> None:
    stage = await set_stage(BRIEF, capacity=None)
    with capture_logs() as lines:
        ann, bob, cat = await crowded_out(stage)
        await stage.stop(bob)
        await stage.until(ann, AgentState.RUNNING)
    # Ann's and Bob's first starts, and her second.
    assert turns(stage)["starting", "none"] == 3
    at = [(event.kind.removeprefix("agent."), event.at) for event in await stage.events(ann)]
    (_, restarting), (_, queued), (_, admitted) = at[
        next(n for n, (kind, _) in enumerate(at) if kind == "restarting") :
    ][:3]
    assert seconds(stage, AgentState.RESTARTING) == [(queued - restarting).total_seconds()]
    assert seconds(stage, AgentState.QUEUED) == [pytest.approx((admitted - queued).total_seconds(), abs=0.001)]
    moves = [(line["attempt"], line["state"]) for line in lines if line.get("agent_id") == ann and "state" in line]
    assert moves == [
        (1, "starting"),
        (1, "running"),
        (1, "restarting"),
        (2, "queued"),
        (2, "starting"),
        (2, "running"),
    ]
    assert not [line for line in lines if line.get("agent_id") == cat and line["event"] == "agent.moved"]


async def test_failures_and_restarts_are_counted_by_kind_and_an_order_is_no_failure(stage: Stage) -> None:
    agent_id = await stage.started()
    await stage.fail(agent_id, FailureKind.OUT_OF_MEMORY)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.fail(agent_id, FailureKind.USER_RESTART)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.fail(agent_id, FailureKind.UNSCHEDULABLE)
    await stage.until_closed()
    assert stage.meter.counted(RESTARTS, "kind") == {("out_of_memory",): 1, ("user_restart",): 1}
    assert stage.meter.counted(FAILURES, "kind") == {("out_of_memory",): 1, ("unschedulable",): 1}
    assert turns(stage)["restarting", "out_of_memory"] == 1
    assert len(seconds(stage, AgentState.RESTARTING)) == 2


async def test_what_is_written_already_and_words_of_an_operator_make_no_more_numbers(stage: Stage) -> None:
    agent_id = await stage.started()
    meter = RememberingMeter()
    lives = LifeActivities(stage.db, stage.settings, stage.lives, meter)
    of = await life(stage, agent_id)
    await lives.mark_running(of)
    assert not meter.counted(TRANSITIONS, "to", "reason")
    await stage.stop(agent_id, "because I say so", force=True)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.nothing_left()
    await lives.finish(Final(life=of, state=AgentState.TERMINATED, reason=EndReason.OPERATOR))
    assert not meter.counted(TRANSITIONS, "to", "reason")
    assert turns(stage)["terminated", "other"] == 1


async def test_what_a_runtime_refuses_is_counted_by_its_code(
    set_stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_stage({"restart_backoff_seconds": 0.01})

    async def refused(spec: AgentSpec) -> Created:
        raise RuntimePermanent("the binary is missing")

    monkeypatch.setattr(stage.runtime, "create", refused)
    await stage.start()
    await stage.until_closed()
    assert stage.meter.counted(RUNTIME_ERRORS, "code") == {("runtime_permanent",): 1}
    assert stage.meter.counted(FAILURES, "kind") == {("cannot_start",): 1}


async def test_kinds_of_failure_are_there_before_the_first_one(stage: Stage) -> None:
    """A counter that appears with its first failure shows no increase to whoever scrapes it."""
    assert {("crash",), ("host_lost",)} <= stage.meter.known(FAILURES, "kind")
    assert stage.meter.known(FAILURES, "kind") == stage.meter.known(RESTARTS, "kind")
