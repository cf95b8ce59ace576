"""What is kept too long or is too much goes in parts, each small enough for one transaction however much it is."""

from datetime import UTC, datetime, timedelta

from core.db.portions import GONE_BYTES
from core.db.repositories import artefacts, retention
from core.domain.lifecycle import AgentState
from core.domain.wire import MAX_ARTEFACT_BYTES
from tests.fixtures.live import Berthed, LiveStage
from tests.fixtures.stage import until

_MIB = 1 << 20


async def picture(live: LiveStage, agent: Berthed, name: str, mib: int) -> None:
    """A picture that has so many bytes by its row; the later made, the newer."""
    await live.rows(
        "INSERT INTO artefacts (artefact_id, agent_id, command_id, user_id, content_type, bytes, created_at)"
        " VALUES (:i, :a, :c, 'ann', 'image/png', :b, clock_timestamp()) RETURNING 1",
        i=f"{agent.agent_id} {name}",
        a=agent.agent_id,
        c=name,
        b=mib * _MIB,
    )


async def pictures(live: LiveStage, agent: Berthed) -> list[str]:
    """What is there of the agent's, the oldest first."""
    query = "SELECT command_id FROM artefacts WHERE agent_id = :a ORDER BY created_at"
    return [row["command_id"] for row in await live.rows(query, a=agent.agent_id)]


async def gone(live: LiveStage, days_ago: float) -> Berthed:
    agent = await live.agent(await live.user("ann"))
    ended = datetime.now(UTC) - timedelta(days=days_ago)
    await live.change(agent, state=AgentState.TERMINATED.value, ended_at=ended)
    return agent


async def test_what_ended_agents_left_goes_in_parts_and_each_agent_after_all_of_its_own(live: LiveStage) -> None:
    before = datetime.now(UTC) - timedelta(days=30)
    heavy, light, recent = await gone(live, 60), await gone(live, 31), await gone(live, 29)
    for n in range(5):
        await picture(live, heavy, f"shot {n}", 50)
    await picture(live, recent, "shot", 50)

    async def there() -> set[str]:
        rows = await live.rows("SELECT agent_id FROM agents WHERE state = 'terminated'")
        return {row["agent_id"] for row in rows}

    counts: list[int] = []
    while not counts or counts[-1]:
        async with live.db.transaction() as session:
            counts.append(await retention.forget_artefacts(session, before))
        assert len(await pictures(live, heavy)) == 5 - sum(counts)
        async with live.db.transaction() as session:
            await retention.forget_events(session, before, 50)
            await retention.forget_ended(session, before, 50)
        assert await there() == ({heavy.agent_id} if sum(counts) < 5 else set()) | {recent.agent_id}
    assert counts == [2, 2, 1, 0]
    assert await pictures(live, recent) == ["shot"]
    assert light.agent_id not in await there()


async def test_agent_with_more_commands_and_events_than_go_at_once_goes_after_them(live: LiveStage) -> None:
    before = datetime.now(UTC) - timedelta(days=30)
    heavy, light, recent = await gone(live, 60), await gone(live, 31), await gone(live, 29)
    for agent in (heavy, recent):
        await live.rows(
            "INSERT INTO commands (agent_id, command_id, attempt, name, parameters, state, deadline_at)"
            " SELECT :a, n, 1, 'state', '{}', 'done', now() FROM generate_series(1, 25) n RETURNING 1",
            a=agent.agent_id,
        )
        await live.rows(
            "INSERT INTO events (user_id, cursor, agent_id, project_id, seq, at, kind, state)"
            " SELECT user_id, 1000 + n, agent_id, project_id, 100 + n, now(), 'command.executed', 'running'"
            " FROM agents, generate_series(1, 25) n WHERE agent_id = :a RETURNING 1",
            a=agent.agent_id,
        )
    kinds = [retention.forget_commands, retention.forget_events, retention.forget_ended]

    async def all_gone() -> bool:
        for forget in kinds:
            async with live.db.transaction() as session:
                assert await forget(session, before, 10) <= 10
        left = {row["agent_id"] for row in await live.rows("SELECT agent_id FROM agents")}
        return left & {heavy.agent_id, light.agent_id, recent.agent_id} == {recent.agent_id}

    # A row that somebody else holds just now is the next look's.
    await until(all_gone, "what ended long ago to go")
    (count,) = await live.rows("SELECT count(*) AS n FROM commands WHERE agent_id = :a", a=recent.agent_id)
    assert count["n"] == 25


async def test_limit_that_was_lowered_is_met_in_parts_the_oldest_first(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    names = [f"shot {n}" for n in range(7)]
    for name in names:
        await picture(live, agent, name, 50)
    for left in (names[2:], names[4:], names[5:], names[5:]):
        async with live.db.transaction() as session:
            await artefacts.keep_newest(session, agent.agent_id, 100 * _MIB)
        assert await pictures(live, agent) == left


def test_what_goes_with_an_upload_is_more_than_it_brings() -> None:
    assert GONE_BYTES > MAX_ARTEFACT_BYTES
