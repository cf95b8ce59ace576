"""Many more people than places: everyone gets an agent in the end, and who pays more goes first."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api.auth import Role
from core.domain.lifecycle import AgentState, legal
from core.domain.tiers import Tier, rank
from tests.bench.load import Board, Crowd, crowd_of
from tests.fixtures.stack import LocalStack, eventually, local_stack

USERS, PLACES = 300, 20
TIERS = list(Tier)
# Nobody stops an agent: each reaches the longest time that its template lets it live.
LIVES = {f"lives-{seconds}": {"timings": {"max_life_seconds": seconds, "grace_seconds": 0}} for seconds in (1, 2, 3)}
NAMES = list(LIVES)

# Rows get their number in the transaction that holds the cluster's lock, so numbers tell who came before whom exactly.
LINES = """
SELECT agent.agent_id, agent.user_id, agent.tier,
       queued.xmin::text::bigint AS queued, admitted.xmin::text::bigint AS admitted
FROM agents AS agent
JOIN events AS queued ON queued.agent_id = agent.agent_id AND queued.kind = 'agent.queued'
JOIN events AS admitted ON admitted.agent_id = agent.agent_id AND admitted.kind = 'agent.admitted'
"""
LOGS = "SELECT agent_id, seq, state FROM events WHERE agent_id IS NOT NULL ORDER BY agent_id, seq"


async def lives_once(crowd: Crowd, board: Board, number: int) -> str:
    agent_id = await crowd.start(number, template=NAMES[number % len(NAMES)])
    await board.until(agent_id, "terminated")
    return agent_id


async def nothing_is_left(stack: LocalStack, crowd: Crowd) -> None:
    async def empty() -> bool:
        headers = crowd.bearer("admin", Role.ADMIN)
        pool = (await crowd.http.get("/api/admin/pools/default", headers=headers)).json()
        running = "WorkflowType='AgentWorkflow' AND ExecutionStatus='Running'"
        counted = json.loads(await stack.temporal("workflow", "count", "--query", running, "--output", "json"))
        return (pool["holders"], pool["waiting"], int(counted.get("count", 0))) == (0, 0, 0)

    await eventually(empty, "no agent, nobody in line and no workflow")


def overtaken(lines: list[Any]) -> list[tuple[str, str]]:
    """Pairs of whom a lower tier was let in before, although both waited."""
    return [
        (first["user_id"], second["user_id"])
        for first, second in itertools.permutations(lines, 2)
        if rank(Tier(first["tier"])) < rank(Tier(second["tier"]))
        and first["queued"] < second["admitted"] < first["admitted"]
    ]


@pytest.mark.timeout(600)
async def test_three_hundred_people_at_twenty_places_are_all_served_and_those_who_pay_more_first(
    tmp_path: Path, database_url: str
) -> None:
    config = tmp_path / "berth.yaml"
    config.write_text(json.dumps({"templates": LIVES}))
    quick = {"TIMINGS__REAP_SECONDS": "2", "TIMINGS__GRANT_TICK_SECONDS": "2", "TIMINGS__SHUTDOWN_SECONDS": "5"}
    given = {"CONFIG": str(config), "DATABASE__URL": database_url, "POOL__CAPACITY": str(PLACES), **quick}
    # What the rest of the machine does is no reason to let nobody in.
    given |= {"THRESHOLDS__CPU_PERCENT": "100", "THRESHOLDS__MEMORY_PERCENT": "100"}
    async with local_stack(tmp_path / "data", **given) as stack:
        crowd = await crowd_of(stack, USERS, tier_of=lambda number: TIERS[number % len(TIERS)])
        board = Board(crowd)
        agents = await asyncio.gather(*(lives_once(crowd, board, number) for number in range(USERS)))
        await board.close()
        assert len(set(agents)) == USERS
        assert await crowd.states() == dict.fromkeys(agents, "terminated")
        await nothing_is_left(stack, crowd)
        await crowd.http.aclose()
    database = await asyncpg.connect(database_url)
    lines, logs = await database.fetch(LINES), await database.fetch(LOGS)
    await database.close()
    assert len(lines) == USERS
    assert sum(line["queued"] < line["admitted"] for line in lines) > USERS - 3 * PLACES
    assert overtaken(lines) == []
    for _, log in itertools.groupby(logs, key=lambda event: event["agent_id"]):
        events = list(log)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        states = [AgentState(event["state"]) for event in events if event["state"] is not None]
        assert all(before is after or legal(before, after) for before, after in itertools.pairwise(states)), states
        assert (states[0], states[-1]) == (AgentState.REQUESTED, AgentState.TERMINATED)
