"""The dashboard for everybody: by keyboard, on a phone, in the dark, in words for every state there is."""

import re
from typing import Any

import pytest
from playwright.async_api import Page, expect
from pydantic import SecretStr

from api.auth import Role
from core.domain.admission import QueueReason
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState, EndReason
from core.domain.recovery import FailureKind
from core.domain.tiers import Tier
from core.settings import Auth, DefaultPool, Settings
from tests.fixtures.api import SECRET, Api
from tests.fixtures.web import Dashboard

pytestmark = pytest.mark.needs("chromium")

LONG = "a-project-with-a-name-that-goes-on-and-on-" + "x" * 120

# Contrast of every visible text with what is painted behind it, by WCAG 2; returns those under 4.5.
_POOR_CONTRAST = """() => {
  const light = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n.slice(0, 3), n[3] ?? 1]; };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const [colour, alpha] = parse(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return colour;
      if (alpha > 0) throw new Error(`half transparent ground of ${at.className}`);
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor)[0];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    const unseen = !node.checkVisibility() || node.closest(".sprite, .unseen, noscript");
    if (unseen || !walk.currentNode.data.trim()) continue;
    const [a, b] = [parse(getComputedStyle(node).color)[0], ground(node)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${walk.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
_TOO_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((node) => node.checkVisibility() && !node.closest(".unseen, .sprite, thead, .skip"))
  .filter((node) => node.getBoundingClientRect().right > innerWidth + 0.5)
  .map((node) => `${node.tagName}.${node.className}`)"""


@pytest.fixture
def settings() -> Settings:
    return Settings(auth=Auth(secret=SecretStr(SECRET)), pool=DefaultPool(runtime="memory", capacity=4))


async def busy_day(api: Api) -> dict[str, str]:
    """One agent in every state but the passing ones; ids by state."""
    await api.member("owner", ["one", "two", "three", "four", "five", "six", LONG], tier=Tier.PREMIUM)
    found = {}
    for project, state in (("one", "cancelled"), ("two", "failed"), ("three", "terminated")):
        found[state] = (await api.start(project_id=project)).json()["agent"]["agentId"]
    await api.lives.run(found["failed"])
    await api.lives.move(found["failed"], AgentState.FAILED, EventKind.FAILED, FailureKind.CRASH)
    await api.lives.end(found["terminated"])
    await api.lives.end(found["cancelled"])
    found["running"] = await api.running("owner", "four")
    found["draining"] = await api.running("owner", "five")
    await api.ask("POST", f"/api/agents/{found['draining']}/stop", json={"graceSeconds": 600})
    found["starting"] = (await api.start(project_id="six")).json()["agent"]["agentId"]
    await api.running("stranger", "other")
    found["queued"] = (await api.start(project_id=LONG)).json()["agentId"]
    return found


async def views(dashboard: Dashboard, page: Page, found: dict[str, str]):
    """Every view in turn, each settled."""
    await page.goto(f"{dashboard.url}/#/")
    await expect(page.locator(".cards .card").first).to_be_visible()
    yield "list"
    for state, agent_id in found.items():
        await page.goto(f"{dashboard.url}/#/agents/{agent_id}")
        shown = page.get_by_role("article")
        await expect(shown.locator(".timeline li").first).to_be_visible()
        await shown.get_by_text("Details", exact=True).click()
        yield state


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_is_readable(dashboard: Dashboard, scheme: str) -> None:
    found = await busy_day(dashboard.api)
    page = await dashboard.open(color_scheme=scheme)
    async for view in views(dashboard, page, found):
        assert await page.evaluate(_POOR_CONTRAST) == [], view
    await page.goto(f"{dashboard.url}/#/agents/{found['running']}")
    await page.get_by_role("article").get_by_role("button", name="Stop …").click()
    assert await page.evaluate(_POOR_CONTRAST) == []
    admin = await dashboard.open("admin", Role.ADMIN, where="#/everyone", color_scheme=scheme)
    await expect(admin.locator("tbody tr").first).to_be_visible()
    assert await admin.evaluate(_POOR_CONTRAST) == []
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", dark)[:3])) < 60) == (scheme == "dark")


async def test_phone_of_360_points_needs_no_horizontal_scroll(dashboard: Dashboard) -> None:
    found = await busy_day(dashboard.api)
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    page = await dashboard.open(**phone)
    async for view in views(dashboard, page, found):
        assert await page.evaluate(_TOO_WIDE) == [], view
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360, view
        if view != "list":
            await expect(page.get_by_role("link", name="All my agents")).to_be_visible()
            await expect(page.get_by_role("heading", name="My agents")).to_be_hidden()
    await page.goto(f"{dashboard.url}/#/agents/{found['running']}")
    await page.get_by_role("article").get_by_role("button", name="Stop …").click()
    assert await page.evaluate(_TOO_WIDE) == []
    admin = await dashboard.open("admin", Role.ADMIN, where="#/everyone", **phone)
    await expect(admin.locator("tbody tr").first).to_be_visible()
    assert await admin.evaluate(_TOO_WIDE) == []
    assert await admin.evaluate("document.documentElement.scrollWidth") <= 360


async def focused(page: Page) -> str:
    """Name of what has the focus; it must be seen to have it."""
    seen, name = await page.evaluate(
        """() => {
          const node = document.activeElement;
          const ring = [node, ...["::after"].map((part) => [node, part])].some((of) => {
            const style = getComputedStyle(...[of].flat());
            return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
          });
          return [ring, node.labels?.[0]?.innerText ?? node.innerText ?? node.tagName];
        }"""
    )
    assert seen, f"no visible focus on {name}"
    return str(name).strip()


async def test_whole_life_is_ordered_by_keyboard_alone(dashboard: Dashboard) -> None:
    page = await dashboard.open()
    order = []
    for _ in range(5):
        await page.keyboard.press("Tab")
        order.append(await focused(page))
    assert order == ["Skip to the agents", "Berth", "Sign out", "Project", "Start an agent"]
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Control+A")
    await page.keyboard.type("shop")
    await page.keyboard.press("Enter")
    shown = page.get_by_role("article")
    await expect(shown.get_by_role("heading", name="shop")).to_be_focused()
    agent_id = await page.locator(".card").get_attribute("data-agent")
    assert agent_id is not None
    await dashboard.api.lives.run(agent_id)
    await expect(shown).to_contain_text("Ready to use.")
    await page.keyboard.press("Tab")
    assert await focused(page) == "Restart …"
    await page.keyboard.press("Tab")
    assert await focused(page) == "Stop …"
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("At once")).to_be_focused()
    for _ in range(6):
        await page.keyboard.press("Tab")
        inside = await page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
        assert inside, "the focus left the dialog"
    await page.keyboard.press("Escape")
    await expect(page.locator("dialog")).to_have_count(0)
    assert await focused(page) == "Stop …"
    await page.keyboard.press("Enter")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(shown).to_contain_text("Stopping soon")
    # The button is gone; the focus is not.
    await expect(shown.get_by_role("heading", name="shop")).to_be_focused()
    await page.keyboard.press("Tab")
    assert await focused(page) == "Keep it"
    assert [stop.grace_seconds for stop in dashboard.api.lives.stops] == [30]


async def test_focus_stays_where_it_is_while_agents_change(dashboard: Dashboard) -> None:
    found = await busy_day(dashboard.api)
    page = await dashboard.open()
    stop = page.locator(f'.card[data-agent="{found["running"]}"]').get_by_role("button", name="Stop")
    await stop.focus()
    await dashboard.api.lives.run(found["starting"])
    await expect(page.locator(f'.card[data-agent="{found["starting"]}"]')).to_contain_text("Running")
    await dashboard.api.lives.move(found["queued"], AgentState.CANCELLED, EventKind.CANCELLED)
    await expect(page.locator(f'.card[data-agent="{found["queued"]}"]')).to_contain_text("Withdrawn")
    await expect(stop).to_be_focused()


async def test_every_state_reason_and_event_has_words_of_its_own(dashboard: Dashboard) -> None:
    """A reason that is added to the domain without words for people fails here."""
    page = await dashboard.open()
    final = [AgentState.TERMINATED, AgentState.CANCELLED, AgentState.FAILED]
    pairs: list[tuple[str, str | None]] = [(state.value, None) for state in AgentState]
    pairs += [(AgentState.QUEUED.value, reason.value) for reason in QueueReason]
    pairs += [(state.value, reason.value) for state in (*final, AgentState.DRAINING) for reason in EndReason]
    pairs += [(state.value, kind.value) for state in (AgentState.RESTARTING, AgentState.FAILED) for kind in FailureKind]
    told = await page.evaluate(
        """async ([pairs, kinds]) => {
          const words = await import("/dashboard/words.js");
          return {
            states: pairs.map(([state, reason]) => [state, reason, words.describe({ state, reason }, 0)]),
            events: kinds.map((kind) => [kind, words.tell({ kind, detail: {} }, String).title]),
          };
        }""",
        [pairs, [kind.value for kind in EventKind]],
    )
    for state, reason, words in told["states"]:
        assert words["label"], (state, reason)
        assert words["what"], (state, reason)
        assert "undefined" not in f"{words}", (state, reason)
        spoken = (reason or state).replace("_", " ").capitalize() + "."
        assert words["what"] != spoken, f"{state} with reason {reason} is shown as a code"
        if state not in {AgentState.TERMINATED, AgentState.CANCELLED}:
            assert words["help"], (state, reason)
    assert all(title for _, title in told["events"])


async def test_policy_of_the_page_allows_nothing_but_its_own_files(dashboard: Dashboard) -> None:
    page = await dashboard.open()
    answer = await page.request.get(dashboard.url)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    parsed = await page.evaluate(
        """() => { try { document.body.innerHTML = "<p>x</p>"; return true; } catch { return false; } }"""
    )
    assert parsed is False, "text became HTML"
    dashboard.complaints.clear()
    again = await page.request.get(f"{dashboard.url}/dashboard/main.js", headers={"If-None-Match": ""})
    unchanged = await page.request.get(
        f"{dashboard.url}/dashboard/main.js", headers={"If-None-Match": again.headers["etag"]}
    )
    assert (again.status, unchanged.status) == (200, 304)
    for name in ("..%2f..%2fapp.py", "nothing.js", "index.html%00", "words.js%2f"):
        assert (await page.request.get(f"{dashboard.url}/dashboard/{name}")).status == 404, name
