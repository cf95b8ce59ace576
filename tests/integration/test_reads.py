"""What is asked for often reads what it is about, however much is kept beside it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.engine import Db
from core.db.repositories import agents, commands, events, moves, pressure, sights, users
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from core.domain.pressure import Kind
from core.domain.templates import Resources

# Users with a project each; some agents run, many are over. Commands and events as many as a long life has.
_KEPT = """
INSERT INTO users (user_id) SELECT 'user-' || n FROM generate_series(1, 3000) n;
INSERT INTO projects (project_id) SELECT 'project-' || n FROM generate_series(1, 3000) n;
INSERT INTO memberships (project_id, user_id) SELECT 'project-' || n, 'user-' || n FROM generate_series(1, 3000) n;
INSERT INTO agents (agent_id, user_id, project_id, workflow_id, template, pool, cluster, runtime, tier, state,
                    order_tier, order_at, created_at, last_activity_at, ended_at)
    SELECT 'agent-' || n, 'user-' || n, 'project-' || n, 'w', 'default', 'default', 'local', 'memory', 'free',
           CASE WHEN n > 2990 THEN 'running' WHEN n > 2980 THEN 'draining' WHEN n % 1000 = 0 THEN 'failed'
                ELSE 'terminated' END,
           4, now(), now() - (3000 - n) * interval '1 minute', now() - interval '1 day',
           CASE WHEN n <= 2980 THEN now() END
    FROM generate_series(1, 3000) n;
INSERT INTO commands (agent_id, command_id, attempt, name, parameters, state, deadline_at, ended_at)
    SELECT agent_id, 'command-' || n, 1, 'state', '{}', CASE WHEN n % 3 = 1 THEN 'expired' ELSE 'done' END, now(),
           now() - n * interval '1 minute'
    FROM agents, generate_series(1, 500) n WHERE ended_at IS NULL;
INSERT INTO events (user_id, cursor, agent_id, project_id, seq, at, kind, state)
    SELECT user_id, n, agent_id, project_id, n, now() - (500 - n) * interval '1 minute', 'agent.ready',
           CASE WHEN n < 500 THEN 'running' ELSE 'draining' END
    FROM agents, generate_series(1, 500) n WHERE ended_at IS NULL;
INSERT INTO events (user_id, cursor, agent_id, project_id, seq, at, kind, state)
    SELECT user_id, n, agent_id, project_id, n, now() - (1001 - n) * interval '1 second',
           CASE n WHEN 501 THEN 'agent.starting' WHEN 502 THEN 'agent.ready' ELSE 'command.executed' END,
           CASE n WHEN 501 THEN 'starting' ELSE 'running' END
    FROM agents, generate_series(501, 1000) n WHERE agent_id = 'agent-3000'
"""


@pytest.fixture
async def kept(db: Db) -> Db:
    async with db.transaction() as session:
        for statement in _KEPT.split(";"):
            await session.execute(text(statement))
    async with db.single() as session:
        await session.execute(text("ANALYZE"))
    return db


class Asking:
    """One transaction, and how many rows of each table it has read."""

    def __init__(self, session: AsyncSession, before: dict[str, int]) -> None:
        self.session = session
        self._before = before

    async def rows_read(self, table: str) -> int:
        """Whichever way they were read."""
        return (await _counted(self.session))[table] - self._before[table]


@asynccontextmanager
async def asking(kept: Db) -> AsyncIterator[Asking]:
    """With the plans that a connection comes to keep: made once, for whatever is asked for."""
    async with kept.transaction() as session:
        await session.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        # What the connection read before is told with it, until the server has taken note of that: a second or so.
        yield Asking(session, await _counted(session))


async def _counted(session: AsyncSession) -> dict[str, int]:
    query = "SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
    return {table: int(rows) for table, rows in (await session.execute(text(query))).all()}


async def test_look_for_pressure_reads_one_command_of_each_agent_however_many_it_answered(kept: Db) -> None:
    async with asking(kept) as its:
        kind = Kind(resources=Resources(), away_seconds=900)
        found = await pressure.residents(its.session, "local", datetime.now(UTC), {}, kind)
        assert await its.rows_read("commands") <= len(found) == 20
        answered = await its.session.scalar(text("SELECT max(ended_at) FROM commands WHERE state = 'done'"))
        assert {each.last_activity_at for each in found} == {answered}


async def test_look_at_one_life_reads_one_command_however_many_it_answered(kept: Db) -> None:
    async with asking(kept) as its:
        await sights.of(its.session, "agent-3000", 1, datetime.now(UTC))
        assert await its.rows_read("commands") <= 1


async def test_projects_of_a_user_are_read_without_those_of_others(kept: Db) -> None:
    async with asking(kept) as its:
        assert await users.projects_of(its.session, "user-7") == ["project-7"]
        assert await its.rows_read("memberships") == 1


async def test_agents_of_a_rare_state_are_read_without_all_others(kept: Db) -> None:
    async with asking(kept) as its:
        found, _ = await agents.page(its.session, None, state=AgentState.FAILED)
        assert [each.agent_id for each in found] == ["agent-2000", "agent-1000"]
        assert await its.rows_read("agents") == 2


async def test_end_of_a_life_and_of_an_attempt_read_no_answer_to_a_command(kept: Db) -> None:
    async with asking(kept) as its:
        at = datetime.now(UTC)
        moved = await moves.move(its.session, "agent-3000", 1, AgentState.DRAINING, at)
        # The one that tells of it, the one before it, and the event of the move itself.
        assert await its.rows_read("events") <= 4
        ready = await its.session.scalar(text("SELECT max(at) FROM events WHERE kind = 'agent.ready' AND seq = 502"))
        assert (moved.left, moved.since) == (AgentState.RUNNING, ready)
    async with asking(kept) as its:
        await events.count(its.session, "agent-3000", EventKind.BROWSER_REOPENED, at - timedelta(days=1))
        assert await its.rows_read("events") <= 502


async def test_what_an_agent_may_still_do_is_read_without_all_that_it_has_done(kept: Db) -> None:
    at = datetime.now(UTC)
    asked = commands.Asked(
        agent_id="agent-3000", attempt=1, command_id="new", name="state", parameters={}, deadline_at=at
    )
    async with asking(kept) as its:
        assert await commands.tasks_begun(its.session, "agent-3000") == 0
        await commands.submit(its.session, asked, at)
        assert len(await commands.claim(its.session, "agent-3000", 1, 1, at - timedelta(1), 10)) == 1
        await commands.to_cancel(its.session, "agent-3000", 1)
        await commands.expire(its.session, "agent-3000", at)
        await commands.abandon(its.session, "agent-3000", None, at)
        assert await its.rows_read("commands") <= 8


async def test_moment_at_which_agents_began_to_leave_is_read_without_all_that_they_lived_through(kept: Db) -> None:
    async with asking(kept) as its:
        found, _ = await agents.page(its.session, None, state=AgentState.DRAINING)
        dated = await agents.with_since(its.session, found)
        # Of each the event that tells of it, once by either question, and the one before it.
        assert await its.rows_read("events") <= 3 * len(dated) == 30
        left = await its.session.scalar(text("SELECT max(at) FROM events"))
        assert {each.state_since for each in dated} == {left}
