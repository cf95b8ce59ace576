"""One who was put out of a project: their agent there is theirs to stop, while nobody could tell it to drain yet."""

import asyncio
from typing import Any

import pytest

from core.domain.lifecycle import AgentState
from tests.fixtures.api import Api
from tests.fixtures.live import LiveStage
from tests.integration.test_live_desktop import WAIT, closing, last_activity, screen_of, ticket_of, viewer

STATE: dict[str, Any] = {"command": "state"}


@pytest.mark.parametrize(
    ("order", "body"),
    [("execute", STATE), ("desktop", {"mode": "view"}), ("activity", None), ("keep", None), ("restart", None)],
)
async def test_one_who_was_put_out_drives_their_agent_no_more(
    live: LiveStage, order: str, body: dict[str, Any] | None
) -> None:
    agent = await live.agent(await live.user("ann"))
    before = await last_activity(live, agent)
    await live.put_out(agent)
    url = f"{live.replicas[0]}/api/agents/{agent.agent_id}/{order}"
    answer = await live.http.post(url, json=body, headers=live.bearer(agent.user_id))
    told = answer.json()
    assert (answer.status_code, told["code"], told["action"]) == (404, "not_found", "ask_for_membership")
    assert not await live.rows("SELECT 1 FROM commands WHERE agent_id = :a", a=agent.agent_id)
    assert await last_activity(live, agent) == before


async def test_one_who_was_put_out_may_stop_their_agent(api: Api) -> None:
    agent_id = await api.running()
    await api.sql("DELETE FROM memberships WHERE user_id = 'owner' RETURNING user_id")
    assert (await api.ask("POST", f"/api/agents/{agent_id}/stop")).status_code == 202
    assert [order.agent_id for order in api.lives.stops] == [agent_id]


async def test_one_who_was_put_out_is_told_again_what_came_of_an_earlier_command(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent).online() as fake:
        first = await live.execute(agent, STATE, key="before")
        await live.put_out(agent)
        again = await live.execute(agent, STATE, key="before")
        assert (again.status_code, again.text) == (200, first.text)
        assert (await live.execute(agent, STATE, key="after")).status_code == 404
        assert fake.runs == ["before"]


async def test_desktop_ticket_of_one_who_was_put_out_opens_nothing(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with screen_of(live, agent) as screen:
        ticket = await ticket_of(live, agent)
        await live.put_out(agent)
        assert await closing(live, ticket) == 4401
        assert screen.asked == []


async def test_open_desktop_of_one_who_was_put_out_closes(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with screen_of(live, agent), viewer(live, await ticket_of(live, agent)) as socket:
        await asyncio.wait_for(socket.recv(), WAIT)
        await live.put_out(agent)
        await live.rows("SELECT pg_notify('berth_channel', :a)", a=agent.agent_id)
        await asyncio.wait_for(socket.wait_closed(), WAIT)
        assert socket.close_code == 4410


async def test_one_who_was_put_out_may_still_save_by_hand_while_their_agent_drains(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    await live.put_out(agent)
    await live.change(agent, state=AgentState.DRAINING.value)
    async with screen_of(live, agent), viewer(live, await ticket_of(live, agent)) as socket:
        assert await asyncio.wait_for(socket.recv(), WAIT) == b"RFB 003.008\n"
