"""What the browser cannot reach, tried in every way a page, a person or a program could think of."""

import asyncio
import contextlib
from collections.abc import Iterator
from urllib.parse import quote

import psutil
import pytest

from core.dev.demo.shop import Shop
from tests.agent.running import TOKEN, Agent
from tests.agent.vnc import CONTROL, RETURN, viewing

pytestmark = pytest.mark.needs("agent")


@pytest.fixture(scope="module")
def other() -> Iterator[Shop]:
    """Something else on this machine, as another agent's page would be: nobody allowed it."""
    with Shop() as shop:
        yield shop


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "http://agent.localhost:{port}/secret",
        "http://LOCALHOST.:{port}/secret",
        "http://[::1]:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://[::ffff:7f00:1]:{port}/secret",
        "http://[64:ff9b::7f00:1]:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://0x7f000001:{port}/secret",
        "http://0177.0.0.1:{port}/secret",
        "http://127.1:{port}/secret",
        "http://0.0.0.0:{port}/secret",
        "http://0:{port}/secret",
        "https://127.0.0.1:{port}/secret",
        "http://user:name@127.0.0.1:{port}/secret",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://100.100.100.200/",
        "http://224.0.0.1/",
        "{allowed}/away?to=http://127.0.0.1:{port}/secret",
        "{allowed}/away?to=http://localhost:{port}/secret",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "view-source:file:///etc/passwd",
        "view-source:http://127.0.0.1:{port}/secret",
        "chrome://version",
        "chrome://settings",
        "devtools://devtools/bundled/inspector.html",
        "javascript:location='http://127.0.0.1:{port}/secret'",
        "filesystem:file:///etc/passwd",
        "ftp://127.0.0.1:{port}/",
        "about:version",
    ],
)
async def test_closed_address_is_refused_with_its_own_code(agent: Agent, shop: Shop, other: Shop, address: str) -> None:
    url = address.format(port=other.port, allowed=shop.url)
    code, detail = await agent.fault("navigate", url=url)
    assert code == "address_refused", detail
    assert detail
    text = (await agent.execute("extract"))["text"]
    assert "root:" not in text
    assert "Nobody outside" not in text
    assert other.seen == []


async def test_refused_page_says_so_to_the_person_in_front_of_it(agent: Agent, other: Shop) -> None:
    for scheme in ("http", "https"):
        await agent.fault("navigate", url=f"{scheme}://127.0.0.1:{other.port}/secret")
        state = await agent.execute("state")
        assert state["title"] == "Address refused"
        assert "not a public address" in (await agent.execute("extract"))["text"]


async def test_page_script_reaches_no_closed_address(agent: Agent, shop: Shop, other: Shop) -> None:
    """fetch, image, WebSocket, event source, frame, beacon and a worker: nothing arrives, not even a connection."""
    host = f"127.0.0.1:{other.port}"
    script = f"""
      const ways = [
        () => fetch('http://{host}/fetch', {{mode: 'no-cors'}}),
        () => fetch('http://[::ffff:127.0.0.1]:{other.port}/mapped', {{mode: 'no-cors'}}),
        () => new Promise(r => {{ const i = new Image(); i.onload = i.onerror = r; i.src = 'http://{host}/image'; }}),
        () => new Promise(r => {{ const s = new WebSocket('ws://{host}/socket'); s.onopen = s.onerror = r; }}),
        () => new Promise(r => {{ const e = new EventSource('http://{host}/events'); e.onopen = e.onerror = r; }}),
        () => new Promise(r => {{ const f = document.createElement('iframe'); f.onload = f.onerror = r;
                                  f.src = 'http://{host}/frame'; document.body.append(f); }}),
        () => navigator.sendBeacon('http://{host}/beacon', 'x'),
      ];
      const errand = "fetch('http://{host}/worker', {{mode: 'no-cors'}}).catch(() => 0).then(() => postMessage(0))";
      const worked = new Promise(r => {{ const w = new Worker(URL.createObjectURL(new Blob([errand])));
                                         w.onmessage = () => r('tried'); w.onerror = () => r('no worker'); }});
      Promise.allSettled(ways.map(way => way())).then(() => worked).then(word => document.title = word);
    """
    page = f"data:text/html,<title>trying</title><body><script>{quote(script)}</script>"
    await agent.execute("navigate", url=page)
    assert (await agent.becomes(lambda state: state["title"] != "trying"))["title"] == "tried"
    assert other.seen == []


async def test_popup_to_a_closed_address_shows_a_refusal(agent: Agent, other: Shop) -> None:
    target = f"http://127.0.0.1:{other.port}/secret"
    await _opens(agent, target)
    shown = await agent.becomes(lambda state: state["url"] == target and state["title"] != "")
    assert shown["title"] == "Address refused"
    assert other.seen == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "chrome://version"])
async def test_page_opens_no_popup_to_what_is_not_of_the_web(agent: Agent, shop: Shop, target: str) -> None:
    await agent.execute("navigate", url=shop.url)
    before = len((await agent.execute("state"))["tabs"])
    await _opens(agent, target)
    asked = await agent.becomes(lambda state: state["title"] == "asked")
    assert len(asked["tabs"]) == before
    assert "root:" not in (await agent.execute("extract"))["text"]


async def _opens(agent: Agent, target: str) -> None:
    """A page asks for a window of its own, as its user clicks, and then says that it did."""
    script = f"window.open('{target}'); document.title = 'asked'"
    await agent.execute("navigate", url=f'data:text/html,<button id=b onclick="{script}">open</button>')
    await agent.execute("click", selector="#b")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("file:///etc/passwd", "are closed to this browser"),
        ("view-source:file:///etc/passwd", "are closed to this browser"),
        ("chrome://version", ""),
    ],
)
async def test_address_typed_by_a_person_is_refused_too(agent: Agent, shop: Shop, address: str, shown: str) -> None:
    async with viewing(agent, "control") as viewer:
        for _ in range(10):  # a screen that has just started loses keys that come faster than a person's
            await agent.execute("navigate", url=shop.url)
            await viewer.press(ord("l"), CONTROL)
            await viewer.type(address)
            await viewer.press(RETURN)
            await viewer.settle()
            text = await _left(agent)
            assert "root:" not in text
            if text == shown or (shown and shown in text):
                return
    pytest.fail(f"the address never arrived; the page says {text!r}")


async def _left(agent: Agent) -> str:
    """The page's text once it is not the shop's any more, or after 2 s."""
    text = ""
    for _ in range(40):
        text = str((await agent.execute("extract"))["text"])
        if not text.startswith("Shop") and "Command Line" not in text:
            break
        await asyncio.sleep(0.05)
    return text


async def test_allowed_address_is_reached_and_only_on_its_port(agent: Agent, shop: Shop, other: Shop) -> None:
    assert (await agent.execute("navigate", url=f"{shop.url}/secret"))["title"] == "Secret"
    home = await agent.execute("navigate", url=f"{shop.url}/away?to=/order")
    assert (home["title"], home["url"]) == ("Order tea", f"{shop.url}/order")
    code, _ = await agent.fault("navigate", url=f"http://{shop.host}:{other.port}/secret")
    assert (code, other.seen) == ("address_refused", [])


async def test_browser_listens_on_no_port(agent: Agent) -> None:
    """A debugging port would be open to every page of every agent on this machine."""
    main = psutil.Process(agent.process.pid)
    browser = agent.part("chromium")
    for process in [browser, *browser.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # the page of before takes its helper with it
            listening = [c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            assert listening == [], process.name()
    own = {c.laddr.port for c in main.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    expected = {int(agent.api.rsplit(":", 1)[1]), agent.desktop_port}
    assert expected <= own
    for port in own - expected:  # the gateway and the bridge: both turn a stranger away
        answer = await agent.http.get(f"http://127.0.0.1:{port}/json/list")
        assert answer.status_code in {400, 404}


async def test_refused_address_is_logged_without_what_may_let_one_in(agent: Agent) -> None:
    await agent.fault("navigate", url="http://10.1.2.3/in?code=secret-of-a-login")
    log = agent.log.read_text()
    assert '"url": "http://10.1.2.3/in"' in log
    assert "secret-of-a-login" not in log


async def test_secrets_of_the_agent_cannot_be_read_by_its_browser_user(agent: Agent) -> None:
    """file:// is closed, and were it open: the process that holds the token does not show its environment."""
    environ = await asyncio.create_subprocess_exec(
        *("setpriv", "--reuid", "21001", "--regid", "21001", "--clear-groups")
        if psutil.Process().uids().real == 0
        else (),
        *("cat", f"/proc/{agent.process.pid}/environ"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, _ = await environ.communicate()
    assert environ.returncode != 0
    assert out == b""
    for part in ("Xtigervnc", "matchbox"):
        assert TOKEN not in agent.part(part).environ().values()
