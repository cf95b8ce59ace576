"""The list of agents on the command line: whose they are, which of them live, and what is left out."""

import json

from api.auth import Role
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from core.domain.tiers import Tier
from tests.fixtures.terminal import Desk


async def test_list_shows_ones_own_agents_and_nobody_elses(desk: Desk) -> None:
    agent_id = await desk.api.running()
    shown = await desk.as_user("owner")("agents", "list")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[1].split()[:3] == [agent_id, "shop", "running"]
    strangers = await desk.as_user("stranger")("agents", "list")
    assert (strangers.code, strangers.out) == (0, "")
    assert strangers.line.startswith("no agents")


async def test_administrator_lists_everyones_agents_with_whose_they_are_and_nobody_else_does(desk: Desk) -> None:
    agent_id = await desk.api.running()
    shown = await desk.as_user("admin", role=Role.ADMIN)("agents", "list", "--everyone")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[1].split()[:4] == [agent_id, "owner", "shop", "running"]
    refused = await desk.as_user("owner")("agents", "list", "--everyone")
    assert (refused.code, refused.out) == (3, "")


async def test_list_without_a_living_agent_says_how_many_ended(desk: Desk) -> None:
    await desk.api.lives.end(await desk.api.running())
    shown = await desk.as_user("owner")("agents", "list")
    assert (shown.code, shown.out) == (0, "")
    assert "1 ended: --all shows them" in shown.line


async def test_list_shows_a_living_agent_that_more_ended_ones_than_its_limit_came_after(desk: Desk) -> None:
    await desk.api.member("owner", ["shop", "second"], tier=Tier.BASIC)
    lives = await desk.api.running()
    for _ in range(3):
        await desk.api.lives.end(await desk.api.running(project_id="second"))
    berth = desk.as_user("owner")
    shown = await berth("agents", "list", "--limit", "2")
    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[0] for line in shown.out.splitlines()] == ["AGENT", lives]


async def test_list_says_when_it_left_some_out_and_shows_the_newest(desk: Desk) -> None:
    await desk.api.member("owner", ["shop", "second"], tier=Tier.BASIC)
    await desk.api.running()
    assert "there are more" not in (await desk.as_user("owner")("agents", "list", "--limit", "1")).err
    newer = await desk.api.running(project_id="second")
    # Of two states, so that neither list alone is too long.
    await desk.api.lives.move(newer, AgentState.RESTARTING, EventKind.RESTARTING)
    for which in ((), ("--all",)):
        shown = await desk.as_user("owner")("agents", "list", "--limit", "1", "--json", *which)
        assert [agent["agentId"] for agent in json.loads(shown.out)] == [newer]
        assert "there are more; these are the newest 1" in shown.line
