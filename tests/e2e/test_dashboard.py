"""The dashboard as a person uses it: asking, waiting, watching, stopping, keeping, and what each may see."""

import asyncio
import re
from datetime import UTC, datetime

import pytest
from playwright.async_api import Route, expect
from pydantic import SecretStr

from api.auth import Role
from core.db.repositories import agents, artefacts, events
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from core.domain.recovery import FailureKind
from core.domain.templates import Pool, Template
from core.domain.wire import ZIP, saved_work_id
from core.settings import Auth, Settings
from tests.fixtures.api import SECRET, Api
from tests.fixtures.live import eventually
from tests.fixtures.web import Dashboard, agent, ask_for, card

pytestmark = pytest.mark.needs("chromium")

# What was put into the page before is drawn when this is done.
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
MARKUP = '<img src=x onerror="document.title=1">'


@pytest.fixture
def settings() -> Settings:
    """One place, so that a second agent waits."""
    pool = Pool(runtime="memory", capacity=1, max_starting=5)
    return Settings(auth=Auth(secret=SecretStr(SECRET)), pools={"default": pool}, templates={"big": Template()})


async def only_agent(api: Api, user_id: str = "owner") -> str:
    async with api.db.transaction() as session:
        found, _ = await agents.page(session, user_id)
    return found[0].agent_id


async def something_happens_to(api: Api, agent_id: str) -> None:
    """An event that changes nothing, but lets the page read the agent anew."""
    async with api.db.transaction() as session:
        row = await agents.lock(session, agent_id)
        assert row is not None
        await events.append(session, row, datetime.now(UTC), events.Fact(kind=EventKind.NOTICE_SENT))


async def test_agent_started_by_button_is_seen_to_run_without_reload(dashboard: Dashboard) -> None:
    page = await dashboard.open()
    await expect(page.get_by_text("You have no agent yet.")).to_be_visible()
    await ask_for(page, "shop")
    await expect(card(page, "shop")).to_contain_text("Starting")
    await expect(agent(page, "shop")).to_contain_text("Its desktop and browser are being started.")
    await dashboard.api.lives.run(await only_agent(dashboard.api))
    await expect(card(page, "shop")).to_contain_text("Running")
    await expect(agent(page, "shop")).to_contain_text("Ready to use.")
    await expect(page.locator("#said")).to_have_text("shop: Running. Ready to use.")
    await expect(page.get_by_text("1 of 1 in use")).to_be_visible()


async def test_waiting_agent_shows_its_place_and_why_and_gets_in_when_another_leaves(dashboard: Dashboard) -> None:
    api = dashboard.api
    await api.member("third", ["garden"])
    holder = await api.running("stranger", "other")
    await api.start("third", "garden")
    page = await dashboard.open()
    await ask_for(page, "shop")
    shown = agent(page, "shop")
    await expect(shown.locator(".figure")).to_have_text("2")
    await expect(shown).to_contain_text("your place in line, about")
    await expect(shown).to_contain_text("Others come first.")
    await expect(shown).to_contain_text("It starts by itself when its turn comes")
    await api.ask("POST", f"/api/agents/{await only_agent(api, 'third')}/stop", "third")
    await expect(shown.locator(".figure")).to_have_text("1")
    await expect(shown).to_contain_text("you are next")
    await api.lives.end(holder)
    await api.lives.move(await only_agent(api), AgentState.STARTING, EventKind.ADMITTED)
    await expect(shown.locator(".counter")).to_be_hidden()
    await expect(shown).to_contain_text("Starting")


async def test_place_told_while_an_older_answer_is_awaited_is_not_overwritten_by_it(dashboard: Dashboard) -> None:
    api = dashboard.api
    await api.member("third", ["garden"])
    await api.running("stranger", "other")
    await api.start("third", "garden")
    page = await dashboard.open()
    await ask_for(page, "shop")
    figure = agent(page, "shop").locator(".figure")
    await expect(figure).to_have_text("2")
    asked, released = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        older = await route.fetch()
        asked.set()
        await released.wait()
        await route.fulfill(response=older)

    agent_id = await only_agent(api)
    await page.route(f"**/api/agents/{agent_id}", hold)
    await something_happens_to(api, agent_id)
    await asyncio.wait_for(asked.wait(), 10)
    await api.ask("POST", f"/api/agents/{await only_agent(api, 'third')}/stop", "third")
    await expect(figure).to_have_text("1")
    # The page asks for the account once it has put the agent that it read.
    async with page.expect_response("**/api/me"):
        released.set()
    await page.evaluate(DRAWN)
    await expect(figure).to_have_text("1")


async def test_start_that_would_wait_is_foretold_with_place_reason_and_what_would_help(dashboard: Dashboard) -> None:
    api = dashboard.api
    await api.member("third", ["garden"])
    holder = await api.running("stranger", "other")
    await api.start("third", "garden")
    page = await dashboard.open()
    told = page.locator("#start-forecast")
    await expect(told).to_contain_text("Others come first. You would be number 2 in line: about")
    await expect(told).to_contain_text("With the tier basic you would be number 1")
    await page.get_by_label("Project", exact=True).fill("not mine")
    await expect(told).to_be_hidden()
    await api.ask("POST", f"/api/agents/{await only_agent(api, 'third')}/stop", "third")
    await page.get_by_label("Project", exact=True).fill("shop")
    await expect(told).to_contain_text("Every place is taken. You would be number 1 in line")
    await ask_for(page, "shop")
    await expect(told).to_be_hidden()
    await expect(card(page, "shop")).to_contain_text("Waiting")
    await api.lives.end(holder)


async def test_queue_is_left_after_a_question(dashboard: Dashboard) -> None:
    await dashboard.api.running("stranger", "other")
    page = await dashboard.open()
    await ask_for(page, "shop")
    await card(page, "shop").get_by_role("button", name="Leave the queue").click()
    await expect(page.get_by_role("dialog")).to_contain_text("It gives up place 1 in line.")
    await page.get_by_role("dialog").get_by_role("button", name="Leave the queue").click()
    await expect(agent(page, "shop")).to_contain_text("Withdrawn")
    await expect(page.get_by_text("No agent of yours lives right now.")).to_be_visible()


async def test_stop_with_grace_counts_down_and_keep_takes_it_back(dashboard: Dashboard) -> None:
    await dashboard.api.running()
    page = await dashboard.open()
    await agent(page, "shop").get_by_role("button", name="Stop …").click()
    await page.get_by_label("In 30 seconds").check()
    await page.get_by_role("button", name="Stop it").click()
    figure = agent(page, "shop").locator(".figure")
    await expect(figure).to_have_text(re.compile(r"^0:(30|29|28)$"))
    await expect(figure).to_have_text(re.compile(r"^0:2[0-7]$"))
    await expect(card(page, "shop")).to_contain_text("Stopping soon")
    await expect(page).to_have_title(re.compile(r"^0:\d\d shop stops"))
    await card(page, "shop").get_by_role("button", name="Keep it").click()
    await expect(card(page, "shop")).to_contain_text("Running")
    await expect(agent(page, "shop").locator(".counter")).to_be_hidden()
    await expect(agent(page, "shop").locator(".timeline")).to_contain_text("The warning was taken back.")


async def test_grace_is_cut_short_by_stop_now(dashboard: Dashboard) -> None:
    await dashboard.api.running()
    page = await dashboard.open()
    await agent(page, "shop").get_by_role("button", name="Stop …").click()
    await page.get_by_label("In 10 minutes").check()
    await page.get_by_role("button", name="Stop it").click()
    await agent(page, "shop").get_by_role("button", name="Stop now").click()
    await eventually(lambda: len(dashboard.api.lives.stops) == 2)
    assert [order.grace_seconds for order in dashboard.api.lives.stops] == [600, 0]


async def test_life_is_told_from_its_beginning_to_its_end(dashboard: Dashboard) -> None:
    agent_id = await dashboard.api.running()
    page = await dashboard.open()
    steps = agent(page, "shop").locator(".timeline li strong")
    await expect(steps).to_have_text(["Asked for", "In line", "Got a place", "Starting", "Ready to use"])
    await dashboard.api.lives.end(agent_id)
    await expect(steps).to_have_text(
        ["Asked for", "In line", "Got a place", "Starting", "Ready to use", "Stopping", "Stopped"]
    )
    await agent(page, "shop").get_by_role("button", name="Start again").click()
    await expect(card(page, "shop").first).to_contain_text("Starting")


async def save_work(dashboard: Dashboard, agent_id: str, attempt: int) -> None:
    async with dashboard.api.db.transaction() as session:
        view = await agents.get(session, agent_id)
        assert view is not None
        work = f"PK of {attempt}".encode()
        await artefacts.add(session, view, saved_work_id(attempt), ZIP, len(work), iter([work]))


async def test_work_that_each_attempt_saved_is_fetched_as_a_file_in_life_and_after(dashboard: Dashboard) -> None:
    agent_id = await dashboard.api.running()
    page = await dashboard.open()
    saved = agent(page, "shop").get_by_role("region", name="Saved work")
    await expect(agent(page, "shop")).to_contain_text("Ready to use.")
    await expect(saved).to_be_hidden()
    await save_work(dashboard, agent_id, 1)
    await page.reload()
    buttons = saved.get_by_role("button")
    await expect(buttons).to_have_text(["Save attempt 1 to a file"])
    await expect(saved).to_contain_text("what fitted of its open task, downloads and files (50 MiB)")
    await expect(saved).to_contain_text("manifest.json names what did not")
    await save_work(dashboard, agent_id, 2)
    await dashboard.api.lives.end(agent_id)
    await expect(agent(page, "shop").get_by_role("button", name="Start again")).to_be_visible()
    await expect(buttons).to_have_text(["Save attempt 2 to a file", "Save attempt 1 to a file"])
    for attempt in (1, 2):
        async with page.expect_download() as coming:
            await saved.get_by_role("button", name=f"Save attempt {attempt} to a file").click()
        download = await coming.value
        assert download.suggested_filename == f"{agent_id}-{attempt}.zip"
        assert (await download.path()).read_bytes() == f"PK of {attempt}".encode()


async def test_saved_work_stays_in_sight_when_the_agent_is_told_to_stop(dashboard: Dashboard) -> None:
    agent_id = await dashboard.api.running()
    await save_work(dashboard, agent_id, 1)
    page = await dashboard.open()
    save = agent(page, "shop").get_by_role("button", name="Save attempt 1 to a file")
    await expect(save).to_be_visible()
    # All that is heard is the answer to the order, which does not tell of saved work.
    await page.route(f"**/api/agents/{agent_id}", lambda route: route.abort())
    await agent(page, "shop").get_by_role("button", name="Stop …").click()
    await expect(page.get_by_role("dialog")).to_contain_text("manifest.json in it names what does not")
    await page.get_by_label("In 30 seconds").check()
    await page.get_by_role("button", name="Stop it").click()
    await expect(card(page, "shop")).to_contain_text("Stopping soon")
    await expect(save).to_be_visible()


async def test_failure_is_told_with_its_reason_and_what_would_help(dashboard: Dashboard) -> None:
    agent_id = await dashboard.api.running()
    page = await dashboard.open()
    await dashboard.api.lives.move(agent_id, AgentState.FAILED, EventKind.FAILED, FailureKind.OUT_OF_MEMORY)
    await expect(agent(page, "shop")).to_contain_text("It needed more memory than it may have.")
    await expect(agent(page, "shop")).to_contain_text("Fewer open pages, or a larger agent, would help.")
    await expect(page.get_by_role("alert").filter(has_text="shop failed.")).to_be_visible()


async def test_failed_agent_starts_again_with_its_template_where_the_link_of_its_letter_leads(
    dashboard: Dashboard,
) -> None:
    api = dashboard.api
    answer = await api.ask("POST", "/api/projects/shop/start-agent", json={"template": "big"})
    failed = answer.json()["agent"]["agentId"]
    await api.lives.move(failed, AgentState.FAILED, EventKind.FAILED, FailureKind.CRASH)
    page = await dashboard.open()
    await page.goto(f"{dashboard.url}/#/agents/{failed}")
    await agent(page, "shop").get_by_role("button", name="Start again").click()
    await expect(card(page, "shop").first).to_contain_text("Starting")
    again = (await api.ask("GET", f"/api/agents/{await only_agent(api)}")).json()
    assert again["agentId"] != failed
    assert (again["state"], again["template"]) == ("starting", "big")


async def test_stranger_sees_nothing_of_others(dashboard: Dashboard) -> None:
    agent_id = await dashboard.api.running()
    page = await dashboard.open("stranger", where=f"#/agents/{agent_id}")
    await expect(page.get_by_text("There is no such agent, or it is not yours.")).to_be_visible()
    await expect(page.get_by_role("link", name="Everyone")).to_be_hidden()
    await page.goto(f"{dashboard.url}/#/everyone")
    await expect(page.get_by_role("heading", name="My agents")).to_be_visible()
    assert "shop" not in await page.locator("body").inner_text()
    assert agent_id not in await page.content()


async def test_markup_in_names_and_events_stays_text(dashboard: Dashboard) -> None:
    api = dashboard.api
    await api.member("owner", [MARKUP])
    await api.ask("POST", "/api/projects/%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D1%22%3E/start-agent")
    agent_id = await only_agent(api)
    await api.lives.move(agent_id, AgentState.RESTARTING, EventKind.RESTARTING, f"{MARKUP}<script>1</script>")
    page = await dashboard.open()
    shown = agent(page, MARKUP)
    await expect(shown.get_by_role("heading", name=MARKUP)).to_be_visible()
    await expect(shown.locator(".timeline")).to_contain_text("<script>1</script>")
    assert await page.locator("main img, main script").count() == 0
    await shown.get_by_text("Details", exact=True).click()
    await expect(shown.locator(".facts")).to_contain_text(MARKUP)
    assert await page.title() != "1"


async def test_administrator_sees_everyone_and_the_pools(dashboard: Dashboard) -> None:
    api = dashboard.api
    agent_id = await api.running("stranger", "other")
    await api.start()
    page = await dashboard.open("admin", Role.ADMIN)
    await page.get_by_role("link", name="Everyone").click()
    pool = page.locator(".pool")
    await expect(pool).to_contain_text("1 of 1 taken, 1 waiting, 0 of at most 5 starting")
    queue = page.get_by_role("table", name="Queue")
    await expect(queue.get_by_role("row").nth(1)).to_contain_text("owner")
    rows = page.get_by_role("table", name="Agents").get_by_role("row")
    await expect(rows).to_have_count(3)
    await pool.get_by_role("button", name="Pause").click()
    await expect(pool).to_contain_text("Paused: nobody is let in.")
    await pool.get_by_role("button", name="Change capacity").click()
    await page.get_by_label("Agents at once").fill("7")
    await page.get_by_role("button", name="Set", exact=True).click()
    await expect(pool).to_contain_text("1 of 7 taken")
    assert await api.sql("SELECT capacity, paused FROM pool_overrides") == [{"capacity": 7, "paused": True}]
    await api.lives.look(9, cpu_percent=12, memory_percent=93)
    await pool.get_by_role("button", name="Open again").click()
    await expect(pool).to_contain_text("over their limits (memory 93 of 90 %): nobody is let in")
    await expect(pool).to_contain_text("In use, and at most: CPU 12 of 85 %, memory 93 of 90 %")
    await page.get_by_label("User").fill("stranger")
    await page.get_by_role("button", name="Show", exact=True).click()
    await expect(rows).to_have_count(2)
    await page.get_by_role("link", name="other").click()
    shown = agent(page, "other")
    await expect(shown.get_by_role("button", name="Watch")).to_be_hidden()
    await shown.get_by_role("button", name="End it").click()
    await page.get_by_label("Reason").fill("a better reason")
    await page.get_by_role("dialog").get_by_role("button", name="End it").click()
    await expect(shown).to_contain_text("An administrator stopped it.")
    assert [(order.agent_id, order.detail) for order in api.lives.stops] == [(agent_id, "a better reason")]
