"""Every command over HTTP, on the demo shop, judged by what the page and the store then hold."""

import json
import struct
import zlib
from typing import Any

import pytest

from core.dev.demo.shop import Shop
from tests.agent.running import TOKEN, Agent

pytestmark = pytest.mark.needs("agent")


async def test_ready_agent_is_healthy_and_answers_commands_at_once(agent: Agent) -> None:
    health = await agent.http.get(f"{agent.api}/health")
    assert health.status_code == 200
    body = health.json()
    assert body["status"] == "healthy"
    assert body["browserActive"] is True
    assert body["channel"] == "open"
    assert 50 << 20 < body["memory"] < 1 << 30
    assert TOKEN not in health.text
    assert (await agent.execute("state"))["tabs"]


async def test_form_is_filled_and_sent_by_number_and_by_selector(agent: Agent, shop: Shop) -> None:
    page = await agent.execute("navigate", url=f"{shop.url}/order")
    assert page["title"] == "Order tea"
    assert page["loaded"] is True
    state = await agent.execute("state")
    numbers = {element.get("id"): element["index"] for element in state["elements"]}
    await agent.execute("input", index=numbers["name"], text="Ada Lovelace")
    await agent.execute("input", selector="#email", text="wrong")
    await agent.execute("input", selector="#email", text="ada@example.test")
    chosen = await agent.execute("select", selector="#tea", option="White tea")
    assert chosen["selected"]["text"] == "White tea"
    await agent.execute("click", index=numbers["agree"])
    after = await agent.execute("click", selector="#send")
    assert after["title"] == "Thank you"
    order = shop.book.orders[-1]
    assert (order.name, order.email, order.tea) == ("Ada Lovelace", "ada@example.test", "White tea")
    assert await agent.text("#number") == str(order.number)


async def test_input_appends_clears_and_submits(agent: Agent, shop: Shop) -> None:
    await agent.execute("navigate", url=f"{shop.url}/order")
    await agent.execute("input", selector="#name", text="Ada")
    await agent.execute("input", selector="#name", text=" L.", clear=False)
    state = await agent.execute("state")
    assert [e["value"] for e in state["elements"] if e.get("id") == "name"] == ["Ada L."]
    await agent.execute("input", selector="#name", text="")
    state = await agent.execute("state")
    assert [e["value"] for e in state["elements"] if e.get("id") == "name"] == [""]
    sent = await agent.execute("input", selector="#name", text="Bob", submit=True)
    assert sent["title"] == "Something is missing"


async def test_scroll_moves_the_page_and_says_where_it_is(agent: Agent, shop: Shop) -> None:
    await agent.execute("navigate", url=f"{shop.url}/long")
    down = (await agent.execute("scroll", by=900))["scroll"]
    assert down["top"] == 900
    assert down["height"] > down["visible"]
    assert (await agent.execute("scroll", by=-100_000))["scroll"]["top"] == 0


async def test_extract_reads_text_attributes_and_at_most_the_limit(agent: Agent, shop: Shop) -> None:
    await agent.execute("navigate", url=f"{shop.url}/long")
    lines = await agent.execute("extract", selector="p", limit=2)
    assert lines["items"] == ["Line 0 of a long page.", "Line 1 of a long page."]
    assert lines["matches"] == 400
    assert (await agent.execute("extract", selector="nav a", attribute="href"))["items"] == ["/", "/order"]
    assert "Line 399" in (await agent.execute("extract"))["text"]


async def test_screenshot_is_stored_as_a_png_of_what_is_seen(agent: Agent, shop: Shop) -> None:
    await agent.execute("navigate", url=f"{shop.url}/long")
    shot = await agent.execute("screenshot")
    kind, picture = agent.backend.artefacts[shot["artefactId"].removeprefix("art-")]
    assert (kind, shot["contentType"], shot["bytes"]) == ("image/png", "image/png", len(picture))
    width, height, colours = _png(picture)
    assert width > 1000
    assert 500 < height <= 800
    assert colours > 3, "the picture is empty"
    whole = await agent.execute("screenshot", fullPage=True)
    _, tall, _ = _png(agent.backend.artefacts[whole["artefactId"].removeprefix("art-")][1])
    assert tall > 5000


async def test_pdf_is_stored_as_a_document_with_pages(agent: Agent, shop: Shop) -> None:
    await agent.execute("navigate", url=f"{shop.url}/long")
    made = await agent.execute("pdf")
    kind, document = agent.backend.artefacts[made["artefactId"].removeprefix("art-")]
    assert kind == "application/pdf"
    assert document.startswith(b"%PDF-")
    assert b"%%EOF" in document[-64:]
    assert document.count(b"/Type /Page\n") + document.count(b"/Type /Page ") + document.count(b"/Type/Page/") > 3


async def test_store_that_fails_for_a_moment_gets_the_picture_all_the_same(agent: Agent) -> None:
    agent.backend.failing_puts = 2
    assert (await agent.execute("screenshot"))["bytes"] > 1000
    agent.backend.failing_puts = 100
    assert (await agent.fault("screenshot"))[0] == "artefact_not_stored"
    agent.backend.failing_puts = 0


@pytest.mark.parametrize(
    ("command", "parameters", "code"),
    [
        ("dance", {}, "unknown_command"),
        ("navigate", {}, "invalid_parameters"),
        ("navigate", {"url": "https://example.test", "extra": 1}, "invalid_parameters"),
        ("click", {"selector": "#nowhere"}, "element_not_found"),
        ("click", {"index": 99999}, "element_not_found"),
        ("click", {}, "invalid_parameters"),
        ("click", {"selector": "###"}, "invalid_parameters"),
        ("select", {"selector": "h1", "option": "x"}, "invalid_parameters"),
        ("scroll", {"by": 10**9}, "invalid_parameters"),
        ("run_task", {"task": "anything"}, "no_model"),
        ("navigate", {"url": "https://no-such-name.invalid/"}, "browser_failed"),
    ],
)
async def test_wrong_command_gets_a_code_and_a_sentence(
    agent: Agent, shop: Shop, command: str, parameters: dict[str, Any], code: str
) -> None:
    await agent.execute("navigate", url=shop.url)
    assert (await agent.fault(command, **parameters))[0] == code


async def test_task_without_a_model_names_the_setting_that_gives_one(agent: Agent) -> None:
    assert "BERTH_LLM__BASE_URL" in (await agent.fault("run_task", task="anything"))[1]


async def test_result_that_is_too_large_is_a_fault_not_a_broken_channel(agent: Agent, shop: Shop) -> None:
    await agent.execute("navigate", url=f"{shop.url}/large")
    result = await agent.backend.order("cmd-large", "extract")
    assert result["fault"] == "result_too_large"
    assert (await agent.backend.order("cmd-after-large", "scroll"))["result"]["scroll"]


async def test_half_an_emoji_in_a_page_reaches_nobody(agent: Agent) -> None:
    """Neither one that the page's script made, nor one that comes from cutting a long text."""
    script = "<script>document.title='t\\ud83d';document.querySelector('p').textContent='p\\ude00'</script>"
    long = "x" * 199
    page = f"data:text/html;charset=utf-8,<p>x</p><button aria-label='{long}😀'>b</button>{script}"
    await agent.execute("navigate", url=page)
    for command, key, wanted in (("state", "title", "t\ufffd"), ("extract", "text", "p\ufffd\n\nb")):
        over_http = await agent.execute(command)
        over_channel = (await agent.backend.order(f"cmd-half-{command}", command))["result"]
        assert over_http[key] == over_channel[key] == wanted
        json.dumps(over_channel, ensure_ascii=False).encode()
    (button,) = (await agent.execute("state"))["elements"]
    assert button["name"] == long


async def test_command_that_takes_too_long_ends_with_its_timeout(agent: Agent, shop: Shop) -> None:
    await agent.execute("navigate", url="data:text/html,<button id=b onclick='for(;;);'>loop</button>")
    assert (await agent.fault("click", timeout=2, selector="#b"))[0] == "command_timeout"
    assert (await agent.execute("navigate", url=shop.url))["title"] == "Tea shop"


async def test_dialog_of_a_page_does_not_stop_a_command(agent: Agent, shop: Shop) -> None:
    page = "data:text/html,<title>d</title><button id=b onclick='alert(1);document.title=confirm(2)'>ask</button>"
    await agent.execute("navigate", url=page)
    after = await agent.execute("click", selector="#b")
    assert [dialog["message"] for dialog in after["dialogs"]] == ["1", "2"]
    assert after["title"] == "false"


async def test_new_tab_comes_to_the_front_and_popups_are_followed(agent: Agent, shop: Shop) -> None:
    await agent.execute("navigate", url=shop.url)
    before = len((await agent.execute("state"))["tabs"])
    await agent.execute("navigate", url=f"{shop.url}/order", newTab=True)
    state = await agent.execute("state")
    assert len(state["tabs"]) == before + 1
    assert state["title"] == "Order tea"
    assert [tab["title"] for tab in state["tabs"] if tab["active"]] == ["Order tea"]


async def test_body_over_one_mebibyte_and_broken_bodies_are_refused(agent: Agent) -> None:
    headers = {"X-Agent-Token": TOKEN}
    large = await agent.http.post(f"{agent.api}/execute", content=b" " * (2 << 20), headers=headers)
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
    for body in (b"", b"[]", b"{", b'{"command":"state","more":1}', b'{"command":"state","timeoutSeconds":-1}'):
        broken = await agent.http.post(f"{agent.api}/execute", content=body, headers=headers)
        assert (broken.status_code, broken.json()["code"]) == (422, "invalid_parameters"), body


def _png(data: bytes) -> tuple[int, int, int]:
    """Width, height and how many different bytes a line's pixels hold, from a PNG that is whole."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, pixels, size = 8, b"", (0, 0)
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        body = data[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        elif kind == b"IDAT":
            pixels += body
        position += 12 + length
    raw = zlib.decompress(pixels)
    return size[0], size[1], len(set(raw))
