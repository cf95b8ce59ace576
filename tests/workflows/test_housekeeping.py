"""What the reaper's look forgets, each thing after the time that it is kept, and what it puts in order."""

import pytest

from core.db.repositories import queue
from core.domain.lifecycle import AgentState
from core.settings import Queue, Retention
from tests.fixtures.stage import SetStage, Stage


async def ended(stage: Stage, user_id: str, days_ago: float) -> str:
    """Id of an agent that was stopped so long ago."""
    agent_id = await stage.started(user_id)
    await stage.stop(agent_id, grace_seconds=0)
    await stage.until(agent_id, AgentState.TERMINATED)
    await stage.until_closed(user_id)
    await stage.sql(
        "UPDATE agents SET ended_at = now() - make_interval(hours => :hours) WHERE agent_id = :a",
        hours=int(days_ago * 24),
        a=agent_id,
    )
    return agent_id


async def settled(stage: Stage, notice_id: str, days_ago: float) -> None:
    """A notice that was sent so long ago."""
    await stage.sql(
        "INSERT INTO notices (notice_id, channel, kind, user_id, project_id, event, state, ended_at) VALUES"
        " (:n, 'webhook', 'agent.failed', 'ann', 'shop', '{}', 'sent', now() - make_interval(hours => :hours))",
        n=notice_id,
        hours=int(days_ago * 24),
    )


async def left(stage: Stage, table: str, name: str) -> list[str]:
    return [row[name] for row in await stage.sql(f"SELECT {name} FROM {table} ORDER BY {name}")]  # noqa: S608


async def test_agent_is_forgotten_after_the_days_of_the_settings(set_stage: SetStage) -> None:
    stage = await set_stage(retention=Retention(agent_days=12))
    await ended(stage, "ann", days_ago=13)
    recent = await ended(stage, "bob", days_ago=11)
    await stage.reap()
    assert await left(stage, "agents", "agent_id") == [recent]


@pytest.mark.parametrize(("notice_days", "agent_days"), [(2, 12), (12, 2)])
async def test_settled_notice_is_forgotten_after_the_days_of_the_settings_or_those_of_an_agent_if_fewer(
    set_stage: SetStage, notice_days: float, agent_days: float
) -> None:
    stage = await set_stage(retention=Retention(notice_days=notice_days, agent_days=agent_days))
    await settled(stage, "no-old", days_ago=3)
    await settled(stage, "no-recent", days_ago=1)
    await stage.reap()
    assert await left(stage, "notices", "notice_id") == ["no-recent"]


async def test_one_look_forgets_a_thing_of_every_kind_whose_time_is_over_and_none_other(set_stage: SetStage) -> None:
    stage = await set_stage(retention=Retention(agent_days=12, notice_days=2))
    await ended(stage, "old", days_ago=13)
    recent = await ended(stage, "recent", days_ago=11)
    await settled(stage, "old", days_ago=3)
    await settled(stage, "recent", days_ago=1)
    await stage.sql(
        "INSERT INTO idempotency (user_id, scope, key, body_hash, created_at)"
        " VALUES ('old', 's', 'old', 'h', now() - interval '25 hours'),"
        " ('old', 's', 'recent', 'h', now() - interval '23 hours')"
    )
    await stage.sql(
        "INSERT INTO tickets (ticket_hash, kind, user_id, expires_at)"
        " VALUES ('old', 'events', 'old', now() - interval '1 second'),"
        " ('recent', 'events', 'old', now() + interval '1 hour')"
    )
    await stage.sql(
        "INSERT INTO eviction_credits (user_id, project_id, evicted_at, until)"
        " VALUES ('old', 'shop', now() - interval '1 hour', now() - interval '1 second'),"
        " ('recent', 'shop', now(), now() + interval '1 hour')"
    )
    await stage.sql(
        "INSERT INTO replicas (replica, up_since, seen_at)"
        " VALUES ('old', now() - interval '2 days', now() - interval '61 minutes'),"
        " ('recent', now() - interval '2 days', now())"
    )
    await stage.reap()
    assert await left(stage, "agents", "agent_id") == [recent]
    assert await left(stage, "notices", "notice_id") == ["recent"]
    assert await left(stage, "idempotency", "key") == ["recent"]
    assert await left(stage, "tickets", "ticket_hash") == ["recent"]
    assert await left(stage, "eviction_credits", "user_id") == ["recent"]
    assert await left(stage, "replicas", "replica") == ["recent"]


async def refuse_to_delete(stage: Stage, table: str) -> None:
    """From here on no row of the table can be deleted, as if that took longer than a statement may."""
    await stage.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'too much' USING ERRCODE = 'query_canceled'; END $$"
    )
    await stage.sql(f"CREATE TRIGGER refuse BEFORE DELETE ON {table} EXECUTE FUNCTION refuse()")


@pytest.mark.parametrize("table", ["commands", "events", "artefacts"])
async def test_what_cannot_be_deleted_keeps_nothing_else_of_a_look_from_being_done(
    set_stage: SetStage, table: str
) -> None:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1, retention=Retention(agent_days=12, notice_days=2))
    stuck = await ended(stage, "old", days_ago=13)
    await stage.sql(
        "INSERT INTO artefacts (artefact_id, agent_id, command_id, user_id, content_type, bytes)"
        " VALUES ('art-1', :a, 'shot', 'old', 'image/png', 1)",
        a=stuck,
    )
    await stage.sql(
        "INSERT INTO commands (agent_id, command_id, attempt, name, parameters, state, deadline_at)"
        " VALUES (:a, 'shot', 1, 'screenshot', '{}', 'done', now())",
        a=stuck,
    )
    await settled(stage, "old", days_ago=3)
    await stage.sql(
        "INSERT INTO idempotency (user_id, scope, key, body_hash, created_at)"
        " VALUES ('old', 's', 'old', 'h', now() - interval '25 hours')"
    )
    await stage.started("ann")
    await stage.queued("bob")
    await refuse_to_delete(stage, table)
    assert (await stage.reap()).pools_woken == 1
    assert stuck in await left(stage, "agents", "agent_id")
    assert await left(stage, "notices", "notice_id") == []
    assert await left(stage, "idempotency", "key") == []


async def test_look_after_ageing_was_turned_on_puts_those_in_line_where_their_wait_takes_them(
    set_stage: SetStage,
) -> None:
    stage = await set_stage({"grant_tick_seconds": 600}, capacity=1)
    await stage.started("ann")
    free, enterprise = await stage.queued("bob"), await stage.queued("cat", tier="enterprise")
    await stage.sql("UPDATE agents SET order_since = order_since - interval '1 day' WHERE agent_id = :a", a=free)

    async def line() -> list[str]:
        async with stage.db.transaction() as session:
            places = await queue.positions(session, "default")
        return sorted(places, key=lambda agent_id: places[agent_id])

    await stage.reap()
    assert await line() == [enterprise, free]
    stage.settings = stage.settings.model_copy(update={"queue": Queue(ageing_seconds=600)})
    await stage.reap()
    assert await line() == [free, enterprise]
