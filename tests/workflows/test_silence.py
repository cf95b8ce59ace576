"""Agents that have fallen silent: found by the reaper, each by its own timings, while somebody could hear."""

from datetime import datetime, timedelta, tzinfo
from typing import Self

import pytest

from activities import reaping, told
from activities.lives import LifeActivities
from activities.reaping import ReapingActivities
from core.domain.lifecycle import AgentState
from core.domain.recovery import FailureKind
from core.domain.templates import Pool, Template
from core.domain.timings import Timings
from tests.fixtures.refusals import refuse_signals
from tests.fixtures.stage import SetStage, Stage, until
from tests.workflows.test_giving_up import Deaf


async def heard(stage: Stage, seconds_ago: float) -> None:
    await stage.sql("UPDATE channels SET last_seen_at = now() - :ago * interval '1 second'", ago=seconds_ago)


async def api_up(stage: Stage, up_seconds: float, seen_seconds_ago: float = 0) -> None:
    await stage.sql(
        "INSERT INTO replicas (replica, up_since, seen_at)"
        " VALUES ('api', now() - :up * interval '1 second', now() - :seen * interval '1 second')"
        " ON CONFLICT (replica) DO UPDATE SET up_since = excluded.up_since, seen_at = excluded.seen_at",
        up=up_seconds,
        seen=seen_seconds_ago,
    )


def reaper(stage: Stage) -> ReapingActivities:
    """One that goes on from look to look."""
    lives = LifeActivities(stage.db, stage.settings, stage.lives)
    return ReapingActivities(stage.db, stage.settings, stage.lives, {"memory": stage.runtime}, lives)


async def restarted(stage: Stage, agent_id: str) -> bool:
    return "restarting" in await stage.kinds(agent_id)


async def test_agent_that_fell_silent_is_restarted(stage: Stage) -> None:
    agent_id = await stage.started()
    await heard(stage, 130)
    await api_up(stage, up_seconds=1000)
    assert (await stage.reap()).channels_lost == 1
    await stage.until(agent_id, AgentState.RESTARTING)
    restarting = next(event for event in await stage.events(agent_id) if event.kind == "agent.restarting")
    assert restarting.reason == "channel_lost"
    await stage.until(agent_id, AgentState.RUNNING)


async def test_agents_that_all_fall_silent_together_are_not_all_ended(stage: Stage) -> None:
    """The way from them to the API has broken: whoever is begun anew is not heard either."""
    lives = [await stage.started(f"user{number}") for number in range(6)]
    # Two were heard a last time before all others: theirs is not taken for a loss of two, but of many.
    await heard(stage, 115)
    for agent_id, seconds in ((lives[3], 140), (lives[4], 130)):
        await stage.sql(
            "UPDATE channels SET last_seen_at = now() - :ago * interval '1 s' WHERE agent_id = :a",
            a=agent_id,
            ago=seconds,
        )
    await api_up(stage, up_seconds=1000)
    assert (await stage.reap()).channels_lost == 1
    await until(lambda: restarted(stage, lives[3]), "the longest silent to be begun anew")
    await stage.until(lives[3], AgentState.RUNNING)
    assert not any([await restarted(stage, each) for each in lives if each != lives[3]])


async def test_agents_of_a_cluster_that_fall_silent_together_are_spared_whatever_is_heard_from_another(
    set_stage: SetStage,
) -> None:
    stage = await set_stage(pools={"far": Pool(runtime="memory", cluster="far", capacity=10)})
    near = [await stage.started(f"near{number}") for number in range(6)]
    far = [await stage.started(f"far{number}", pool="far") for number in range(6)]
    await api_up(stage, up_seconds=1000)
    await heard(stage, 1)
    await stage.sql("UPDATE channels SET last_seen_at = now() - interval '130 s' WHERE agent_id = ANY(:all)", all=far)
    assert (await stage.reap()).channels_lost == 1
    # One that died by itself beside them is believed.
    await stage.sql("UPDATE channels SET last_seen_at = now() - interval '130 s' WHERE agent_id = :a", a=near[0])
    assert (await stage.reap()).channels_lost == 2
    await until(lambda: restarted(stage, near[0]), "the one that died to be begun anew")


async def test_agents_of_clusters_too_small_for_a_crowd_are_spared_when_all_of_them_fall_silent(
    set_stage: SetStage,
) -> None:
    stage = await set_stage(pools={"far": Pool(runtime="memory", cluster="far", capacity=10)})
    for number in range(3):
        await stage.started(f"near{number}")
        await stage.started(f"far{number}", pool="far")
    await api_up(stage, up_seconds=1000)
    await heard(stage, 130)
    assert (await stage.reap()).channels_lost == 1


class Ahead(datetime):
    """The clock of a worker that is half a minute ahead of the database's."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(seconds=30)


async def test_worker_whose_clock_is_ahead_still_finds_who_is_silent_and_nobody_sooner(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.started()
    await api_up(stage, up_seconds=1000)
    monkeypatch.setattr(reaping, "datetime", Ahead)
    await heard(stage, 110)
    assert (await stage.reap()).channels_lost == 0
    await heard(stage, 130)
    assert (await stage.reap()).channels_lost == 1


async def test_silence_counts_only_while_somebody_could_hear(stage: Stage) -> None:
    await stage.started()
    await heard(stage, 3600)
    # No API process at all; one that is gone; one that has just come; one whose agents had no time to come back.
    assert (await stage.reap()).channels_lost == 0
    await api_up(stage, up_seconds=4000, seen_seconds_ago=20)
    assert (await stage.reap()).channels_lost == 0
    await api_up(stage, up_seconds=60)
    assert (await stage.reap()).channels_lost == 0
    await api_up(stage, up_seconds=145)
    assert (await stage.reap()).channels_lost == 0
    await api_up(stage, up_seconds=155)
    assert (await stage.reap()).channels_lost == 1


async def test_each_agent_is_called_silent_by_the_timings_of_its_template(set_stage: SetStage) -> None:
    slow = Timings(heartbeat_seconds=100, channel_lost_seconds=300, reconnect_seconds=60)
    pools = {"slow": Pool(runtime="memory", template="slow", capacity=10)}
    stage = await set_stage(pools=pools, templates={"slow": Template(timings=slow), "other": Template()})
    calm, hasty = await stage.started("ann", template="slow", pool="slow"), await stage.started("bob")
    await api_up(stage, up_seconds=4000)
    await heard(stage, 290)
    assert (await stage.reap()).channels_lost == 1
    await until(lambda: restarted(stage, hasty), "the one of the general timings to be restarted")
    assert await stage.kinds(calm) == ["requested", "queued", "admitted", "starting", "ready"]
    await stage.until(hasty, AgentState.RUNNING)
    await stage.sql("UPDATE channels SET last_seen_at = now() - interval '1 hour' WHERE agent_id = :a", a=calm)
    await api_up(stage, up_seconds=355)
    assert (await stage.reap()).channels_lost == 0
    await api_up(stage, up_seconds=365)
    assert (await stage.reap()).channels_lost == 1
    await until(lambda: restarted(stage, calm), "the one of a slow heartbeat to be restarted in the end")


async def test_agent_that_was_never_heard_is_not_called_silent(stage: Stage) -> None:
    await stage.started()
    await api_up(stage, up_seconds=4000)
    assert (await stage.reap()).channels_lost == 0


async def test_silent_agent_whose_end_takes_long_is_reported_once_and_its_next_attempt_anew(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id = await stage.started()
    await api_up(stage, up_seconds=1000)
    looks = reaper(stage)
    await heard(stage, 130)
    assert (await looks.look()).channels_lost == 1
    await stage.until_runs(agent_id, 2)
    # Nothing of it can be removed, so its row says that it runs.
    deaf = Deaf(stage)
    await stage.fail(agent_id, FailureKind.CANNOT_START)
    await deaf.was_asked()
    await heard(stage, 130)
    assert [(await looks.look()).channels_lost for _ in range(3)] == [1, 0, 0]
    monkeypatch.setattr(told, "TELL_AGAIN_SECONDS", 0.0)
    assert (await looks.look()).channels_lost == 1
    deaf.hears()
    await stage.until(agent_id, AgentState.FAILED)


async def test_agent_whose_workflow_did_not_take_the_word_of_its_silence_is_reported_by_the_next_look(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id = await stage.started()
    await api_up(stage, up_seconds=1000)
    await heard(stage, 130)
    looks = reaper(stage)
    with monkeypatch.context() as full:
        refuse_signals(full, stage, "ann", "failed")
        assert (await looks.look()).channels_lost == 0
    assert (await looks.look()).channels_lost == 1
    await until(lambda: restarted(stage, agent_id), "it to be restarted")
