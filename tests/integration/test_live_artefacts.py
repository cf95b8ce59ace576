"""Artefacts: an agent stores what a command made, its user alone fetches it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

import api.live.download
import api.patience
from core.domain.wire import MAX_ARTEFACT_BYTES, ZIP, Execute, saved_work_id
from tests.fakes.agent import Answer
from tests.fixtures.live import Berthed, LiveStage, eventually

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9000


async def put(live: LiveStage, agent: Berthed, command_id: str, content: Any, **headers: str) -> httpx2.Response:
    named = {"X-Agent-Token": agent.token, "Content-Type": "image/png"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await live.http.put(f"{live.replicas[1]}/agent-artefacts/{command_id}", content=content, headers=named)


async def announce(live: LiveStage, agent: Berthed, command_id: str, size: int, kind: str = "image/png") -> bytes:
    """The answer to a body that is announced and never sent."""
    async with stalled(live, agent, command_id, size, kind) as reader:
        return await asyncio.wait_for(reader.read(65536), 5)


@asynccontextmanager
async def stalled(
    live: LiveStage, agent: Berthed, command_id: str, size: int = 100, kind: str = "image/png"
) -> AsyncIterator[asyncio.StreamReader]:
    """An upload that begins and does not go on."""
    url = httpx2.URL(live.replicas[1])
    reader, writer = await asyncio.open_connection(url.host, url.port)
    path = quote(f"/agent-artefacts/{command_id}")
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nX-Agent-Token: {agent.token}\r\n"
    writer.write(f"{head}Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode())
    try:
        yield reader
    finally:
        writer.close()


async def refused_one(uploads: Iterable[asyncio.StreamReader]) -> None:
    """Wait until there is no room for one of them, and so as many under way as there may be."""
    answers = [asyncio.create_task(upload.read(100)) for upload in uploads]
    done, waiting = await asyncio.wait(answers, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    assert done.pop().result().startswith(b"HTTP/1.1 503 ")


class Open:
    """A command that stays open for the block."""

    def __init__(self, live: LiveStage, agent: Berthed) -> None:
        self.live, self.agent = live, agent
        self.go = asyncio.Event()
        self.command_id = "shot"

    async def __aenter__(self) -> "Open":
        async def wait(_: Execute) -> Answer:
            await self.go.wait()
            return {"ok": True}

        self.fake = self.live.fake(self.agent, execute=wait)
        await self.fake.connect()
        self.call = asyncio.create_task(self.live.execute(self.agent, {"command": "screenshot"}, key=self.command_id))
        await self.fake.until(lambda fake: bool(fake.runs))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go.set()
        await self.call
        await self.fake.close()


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_artefact_comes_back_byte_for_byte_to_its_user_alone(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with Open(live, agent):
        stored = await put(live, agent, "shot", pieces(PNG))
        assert stored.status_code == 200, stored.text
        body = stored.json()
        assert (body["contentType"], body["bytes"]) == ("image/png", len(PNG))
        again = await put(live, agent, "shot", b"something else")
        assert again.json() == body
    late = await put(live, agent, "shot", PNG)
    assert late.json() == body
    url = live.replicas[0] + body["url"]
    answer = await live.http.get(url, headers=live.bearer(agent.user_id))
    assert answer.content == PNG
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(PNG))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert (await live.http.get(url, headers=live.bearer(await live.user("eve")))).status_code == 404
    assert (await live.http.get(url)).status_code == 401
    assert (await live.http.get(url, headers={"X-Agent-Token": agent.token})).status_code == 401


async def test_agent_whose_artefact_is_there_is_told_so_before_it_sends_it_again(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with Open(live, agent):
        stored = await put(live, agent, "shot", PNG)
        assert (await announce(live, agent, "shot", MAX_ARTEFACT_BYTES)).endswith(stored.content)


async def test_caller_is_told_of_what_berth_has_stored_whatever_the_agent_says_of_it(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    stored: list[dict[str, Any]] = []

    async def lie(order: Execute) -> Answer:
        stored.append((await put(live, agent, order.command_id, PNG)).json())
        return {"artefactId": "x", "contentType": "text/html", "bytes": 1, "url": "http://127.0.0.1:9/stolen"}

    async with live.fake(agent, execute=lie).online():
        for command in ("screenshot", "pdf"):
            told = await live.execute(agent, {"command": command})
            assert told.json()["result"] == stored[-1]


async def test_oldest_pictures_of_an_agent_go_for_new_ones_and_its_saved_work_and_others_pictures_stay(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for two of these.
    monkeypatch.setitem(live.settings.retention.__dict__, "artefact_mib", 5)
    agent, other = [await live.agent(await live.user("ann")) for _ in range(2)]
    saved = (await put(live, agent, quote(saved_work_id(1)), PNG, Content_Type=ZIP)).json()["url"]
    urls: dict[str, list[str]] = {each.agent_id: [] for each in (agent, other)}
    for each in (other, agent, agent, agent):

        async def shoot(order: Execute, each: Berthed = each) -> Answer:
            return dict((await put(live, each, order.command_id, PNG)).json())

        async with live.fake(each, execute=shoot).online():
            urls[each.agent_id].append((await live.execute(each, {"command": "screenshot"})).json()["result"]["url"])

    async def found(whose: Berthed, url: str) -> int:
        return (await live.http.get(live.replicas[0] + url, headers=live.bearer(whose.user_id))).status_code

    assert [await found(agent, url) for url in (*urls[agent.agent_id], saved)] == [404, 200, 200, 200]
    assert [await found(other, url) for url in urls[other.agent_id]] == [200]


async def test_picture_that_was_never_stored_is_a_failure_and_no_picture(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))

    async def lie(_: Execute) -> Answer:
        return {"artefactId": "x", "contentType": "image/png", "bytes": 1, "url": "/api/artefacts/x"}

    async with live.fake(agent, execute=lie).online():
        told = await live.execute(agent, {"command": "screenshot"})
    assert told.status_code == 502
    assert told.json()["code"] == "artefact_not_stored"


async def test_agent_that_sends_and_sends_keeps_no_other_from_storing(live: LiveStage) -> None:
    user = await live.user("ann")
    one, other = await live.agent(user), await live.agent(user)
    async with Open(live, one), Open(live, other), contextlib.AsyncExitStack() as stack:
        uploads = [await stack.enter_async_context(stalled(live, one, "shot")) for _ in range(9)]
        await refused_one(uploads)
        assert (await put(live, one, "shot", PNG)).status_code == 503
        assert (await put(live, other, "shot", PNG)).status_code == 200


async def test_agents_that_all_save_leave_room_for_a_screenshot(live: LiveStage) -> None:
    user = await live.user("ann")
    leaving = [await live.agent(user) for _ in range(9)]
    agent = await live.agent(user)
    async with Open(live, agent), contextlib.AsyncExitStack() as stack:
        saves = [stalled(live, each, saved_work_id(1), kind=ZIP) for each in leaving]
        await refused_one([await stack.enter_async_context(each) for each in saves])
        assert (await put(live, agent, "shot", PNG)).status_code == 200


@pytest.mark.parametrize("saved", [False, True])
async def test_agents_of_one_user_that_send_and_send_keep_no_other_user_from_storing(
    live: LiveStage, saved: bool
) -> None:
    user = await live.user("ann")
    greedy = [await live.agent(user) for _ in range(5)]
    other = await live.agent(await live.user("bob"))
    command_id, kind = (saved_work_id(1), ZIP) if saved else ("shot", "image/png")
    async with contextlib.AsyncExitStack() as stack:
        for each in (*greedy, other):
            await stack.enter_async_context(Open(live, each))
        uploads = [stalled(live, each, command_id, kind=kind) for each in greedy * 2]
        await refused_one([await stack.enter_async_context(each) for each in uploads])
        stored = await put(live, other, quote(command_id), PNG, Content_Type=kind)
        assert stored.status_code == 200, stored.text


async def test_artefact_over_fifty_mebibytes_is_refused_whether_announced_or_not(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(51):
            yield bytes(1 << 20)

    async with Open(live, agent):
        announced = await announce(live, agent, "shot", MAX_ARTEFACT_BYTES + 1)
        assert announced.startswith(b"HTTP/1.1 413 ")
        assert b"artefact_too_large" in announced
        streamed = await put(live, agent, "shot", endless())
        assert (streamed.status_code, streamed.json()["code"]) == (413, "artefact_too_large")
    assert await live.rows("SELECT 1 FROM artefacts WHERE agent_id = :a", a=agent.agent_id) == []


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/javascript", ""])
async def test_what_a_browser_might_run_is_not_stored(live: LiveStage, kind: str) -> None:
    agent = await live.agent(await live.user("ann"))
    answer = await put(live, agent, "shot", b"<script>", Content_Type=kind)
    assert (answer.status_code, answer.json()["code"]) == (422, "unsupported_content_type")


async def test_only_open_commands_of_the_same_agent_get_artefacts(live: LiveStage) -> None:
    user = await live.user("ann")
    agent, other = await live.agent(user), await live.agent(user)
    async with Open(live, agent):
        assert (await put(live, other, "shot", PNG)).status_code == 404
        assert (await put(live, agent, "unknown", PNG)).status_code == 404
        forged = Berthed(agent_id=agent.agent_id, user_id=user, token="agent_forged")
        assert (await put(live, forged, "shot", PNG)).status_code == 401
        page = await put(live, agent, "shot", PNG, Origin="https://evil.example")
        assert page.status_code == 403
    over = await put(live, agent, "shot", PNG)
    assert (over.status_code, over.json()["code"]) == (409, "command_over")


async def large(live: LiveStage, agent: Berthed) -> str:
    """Path of an artefact of which the machine itself does not hold all on its way."""
    async with Open(live, agent):
        stored = await put(live, agent, "shot", pieces(bytes(32 << 20), 1 << 20))
    return str(stored.json()["url"])


@asynccontextmanager
async def begun(live: LiveStage, user_id: str, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """A download of which nothing is read but what came first."""
    url = httpx2.URL(live.replicas[0])
    reader, writer = await asyncio.open_connection(url.host, url.port)
    token = live.bearer(user_id)["Authorization"]
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())
    try:
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200 ")
        yield reader
    finally:
        writer.transport.abort()


async def test_who_leaves_many_downloads_unread_has_no_more_of_them_until_one_ends(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seats = live.apps[0].state.live.downloading
    monkeypatch.setattr(seats, "_most", 2)
    agent, other = await live.agent(await live.user("ann")), await live.agent(await live.user("bob"))
    path, of_other = await large(live, agent), await large(live, other)

    async def ask(user_id: str, path: str) -> httpx2.Response:
        return await live.http.get(live.replicas[0] + path, headers=live.bearer(user_id))

    async with begun(live, agent.user_id, path), begun(live, agent.user_id, path):
        refused = await ask(agent.user_id, path)
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_requests")
        assert int(refused.headers["Retry-After"]) > 0
        assert len((await ask(other.user_id, of_other)).content) == 32 << 20
    await eventually(lambda: seats.taken(agent.user_id) == 0)
    assert len((await ask(agent.user_id, path)).content) == 32 << 20


@pytest.mark.parametrize(
    ("module", "name"), [(api.live.download, "TOTAL_SECONDS"), (api.patience, "UNREAD_SECONDS")], ids=["all", "a piece"]
)
async def test_download_that_is_not_taken_breaks_off(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    monkeypatch.setattr(module, name, 1.0)
    agent = await live.agent(await live.user("ann"))
    path = await large(live, agent)
    async with begun(live, agent.user_id, path) as reader:
        await eventually(lambda: live.apps[0].state.live.downloading.taken(agent.user_id) == 0)
        with contextlib.suppress(ConnectionError):
            assert len(await asyncio.wait_for(reader.read(), 20)) < 32 << 20
