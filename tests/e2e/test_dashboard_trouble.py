"""The dashboard when something is wrong: refusals, lost connections, busy servers, tokens that are no good."""

import asyncio

import pytest
from playwright.async_api import Route, WebSocketRoute, expect

from api.auth import Role
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from tests.fixtures.web import Dashboard, agent, ask_for, card

pytestmark = pytest.mark.needs("chromium")


async def test_refusal_is_a_sentence_with_what_would_help(dashboard: Dashboard) -> None:
    await dashboard.api.member("owner", ["second"])
    await dashboard.api.running()
    page = await dashboard.open()
    answer = page.locator("#start-answer")
    await ask_for(page, "second")
    await expect(answer).to_contain_text("You have as many agents as your subscription allows.")
    await expect(answer).to_contain_text("Stop one of your agents first")
    await ask_for(page, "no/such?project")
    await expect(answer).not_to_contain_text("as many agents")
    await expect(answer).to_contain_text("the name may be misspelt")


async def test_pending_start_is_asked_again_with_its_key_until_somebody_decides(dashboard: Dashboard) -> None:
    page = await dashboard.open()
    keys: list[str | None] = []

    async def nobody_yet(route, request):
        keys.append(await request.header_value("idempotency-key"))
        if len(keys) == 1:
            await route.fulfill(status=202, headers={"Retry-After": "1"}, json={"status": "pending"})
        else:
            await route.continue_()

    await page.route("**/start-agent", nobody_yet)
    await ask_for(page, "shop")
    await expect(page.locator("#start-answer")).to_contain_text("No worker has answered yet")
    await expect(card(page, "shop")).to_contain_text("Starting")
    await expect(page.locator("#start-answer")).to_be_hidden()
    assert len(keys) == 2
    assert keys[0] == keys[1] != ""


async def test_page_without_connection_says_so_and_catches_up(dashboard: Dashboard) -> None:
    agent_id = (await dashboard.api.start()).json()["agent"]["agentId"]
    page = await dashboard.blank()
    sockets: list[WebSocketRoute] = []

    def pass_on(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    await page.route_web_socket("**/ws/events**", pass_on)
    await page.goto(f"{dashboard.url}/#token={dashboard.token('owner')}")
    await expect(page.locator("#line")).to_have_text("Live")
    await page.route("**/api/**", lambda route: route.abort())
    await sockets[-1].close(code=1011)
    await expect(page.locator("#line")).to_contain_text("Offline; as it was at")
    await expect(card(page, "shop")).to_contain_text("Starting")
    await dashboard.api.lives.run(agent_id)
    await page.unroute("**/api/**")
    await expect(page.locator("#line")).to_have_text("Live")
    await expect(card(page, "shop")).to_contain_text("Running")
    await expect(agent(page, "shop").locator(".timeline")).to_contain_text("Ready to use")


async def test_news_that_arrive_while_an_older_answer_is_awaited_are_not_lost(dashboard: Dashboard) -> None:
    agent_id = (await dashboard.api.start()).json()["agent"]["agentId"]
    page = await dashboard.open()
    asked, answered = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        asked.set()
        await answered.wait()
        await route.continue_()

    await page.route("**/api/me", hold)
    await dashboard.api.lives.move(agent_id, AgentState.RESTARTING, EventKind.RESTARTING)
    await expect(card(page, "shop")).to_contain_text("Restarting")
    await asyncio.wait_for(asked.wait(), 10)
    await dashboard.api.lives.move(agent_id, AgentState.DRAINING, EventKind.DRAINING)
    await expect(agent(page, "shop").locator(".timeline")).to_contain_text("Stopping")
    answered.set()
    await expect(card(page, "shop")).to_contain_text("Stopping")


async def test_busy_server_is_asked_again(dashboard: Dashboard) -> None:
    agent_id = (await dashboard.api.start()).json()["agent"]["agentId"]
    page = await dashboard.open()
    refused: list[str] = []

    async def refuse_twice(route: Route) -> None:
        refused.append(route.request.url)
        if len(refused) <= 2:
            await route.fulfill(status=429, json={"code": "too_many_requests", "detail": "too many requests"})
        else:
            await route.continue_()

    await page.route(f"**/api/agents/{agent_id}", refuse_twice)
    await dashboard.api.lives.run(agent_id)
    await expect(card(page, "shop")).to_contain_text("Running")
    assert len(refused) >= 3


async def test_agents_stay_current_where_sockets_are_blocked(dashboard: Dashboard) -> None:
    agent_id = (await dashboard.api.start()).json()["agent"]["agentId"]
    page = await dashboard.blank()
    await page.route_web_socket("**/ws/events**", lambda socket: socket.close(code=1011))
    await page.goto(f"{dashboard.url}/#token={dashboard.token('owner')}")
    await expect(page.locator("#line")).to_contain_text("Reconnecting")
    await dashboard.api.lives.run(agent_id)
    await expect(card(page, "shop")).to_contain_text("Running")


async def test_page_whose_first_socket_is_not_open_yet_says_that_it_connects(dashboard: Dashboard) -> None:
    page = await dashboard.blank()
    ticket = asyncio.Event()

    async def hold(route: Route) -> None:
        await ticket.wait()
        await route.continue_()

    await page.route("**/api/ticket", hold)
    await page.goto(f"{dashboard.url}/#token={dashboard.token('owner')}")
    await expect(page.get_by_text("You have no agent yet.")).to_be_visible()
    await expect(page.locator("#line")).to_have_text("Connecting …")
    ticket.set()
    await expect(page.locator("#line")).to_have_text("Live")


async def test_token_leaves_the_address_and_an_expired_one_leads_back_to_the_form(dashboard: Dashboard) -> None:
    page = await dashboard.open()
    assert "token" not in page.url
    await page.reload()
    await expect(page.locator("#line")).to_have_text("Live")
    await page.goto("about:blank")
    await page.goto(f"{dashboard.url}/#token={dashboard.token('owner', minutes=-5)}")
    await expect(page.get_by_role("alert")).to_have_text("The token has expired. Get a fresh token and sign in again.")
    await expect(page.get_by_text("berth token USER")).to_be_visible()
    await page.get_by_label("Your access token").fill(f"Bearer {dashboard.token('owner')}\n")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#line")).to_have_text("Live")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Your access token")).to_be_focused()
    assert await page.evaluate("JSON.stringify([sessionStorage, localStorage, document.cookie])") == '[{},{},""]'


async def test_link_of_another_user_is_not_followed_unasked(dashboard: Dashboard) -> None:
    await dashboard.api.running("owner", "shop")
    page = await dashboard.open()
    await expect(card(page, "shop")).to_be_visible()
    link = f"{dashboard.url}/#token={dashboard.token('stranger')}"
    for comes_to in ("the open page", "a page that is loaded anew"):
        if comes_to != "the open page":
            await page.goto("about:blank")
        await page.goto(link)
        question = page.get_by_role("dialog", name="Sign in as stranger instead of owner?")
        await expect(question).to_be_visible()
        assert "token" not in page.url
        await expect(question.get_by_role("button", name="Stay owner")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(question).to_be_hidden()
        await expect(page.locator("#line")).to_have_text("Live")
        await expect(page.locator("#account")).to_have_text("owner")
        await expect(card(page, "shop")).to_be_visible()
    await page.goto(link)
    await page.get_by_role("button", name="Sign in as stranger").click()
    await expect(page.locator("#account")).to_have_text("stranger")
    await expect(card(page, "shop")).to_have_count(0)
    await page.reload()
    await expect(page.locator("#account")).to_have_text("stranger")


async def test_fresh_link_of_the_same_user_is_followed_unasked(dashboard: Dashboard) -> None:
    page = await dashboard.open("admin")
    await expect(page.locator("#account")).to_have_text("admin")
    await page.goto(f"{dashboard.url}/#token={dashboard.token('admin', Role.ADMIN)}")
    await expect(page.locator("#account")).to_have_text("admin (administrator)")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_user_whom_berth_does_not_know_is_told_what_to_do(dashboard: Dashboard) -> None:
    page = await dashboard.blank()
    await page.goto(f"{dashboard.url}/#token={dashboard.token('nobody')}")
    await expect(page.get_by_role("alert")).to_contain_text("An administrator has to add you")
