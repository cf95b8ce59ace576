"""The browser alone ends: the agent puts another in its place, tells how that one ended, and knows when to give up."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.dev.demo.shop import Shop
from core.runtime.cgroup import Cgroups, Group
from tests.agent import running
from tests.agent.backend import Backend, Message, serve
from tests.agent.running import TOKEN, Agent
from tests.agent.site import listening
from tests.agent.vnc import viewing

pytestmark = pytest.mark.needs("agent")

_HEAD = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
_ANSWERS = {
    "/half": f"{_HEAD}Content-Type: text/html\r\n\r\n<title>half</title><img src=/never>",
    "/file": f"{_HEAD}Content-Type: text/plain\r\nContent-Disposition: attachment; filename=tea.txt\r\n\r\ntea",
    "/hungry": f"{_HEAD}Content-Type: text/html\r\n\r\n"
    "<script>const all = []; for (;;) all.push(new Uint8Array(4 << 20).fill(1))</script>",
}


@dataclass
class Site:
    url: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A page whose picture does not come, a download, a page that takes all memory; everything else is silence."""
    made = Site()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).decode().split(" ")[1]
        made.asked.append(path)
        if path in _ANSWERS:
            writer.write(_ANSWERS[path].encode())
            writer.close()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with listening(answer) as made.url:
        yield made


@pytest.fixture
def group() -> Iterator[Group]:
    """A memory group for one agent."""
    groups = Cgroups(f"agent-test-{os.getpid()}")
    made = groups.make("agent", memory_bytes=4 << 30, processes=1000)
    try:
        yield made
    finally:
        made.kill()
        psutil.wait_procs([psutil.Process(pid) for pid in made.pids()], timeout=5)
        made.remove()
        groups.close()


async def _reopened(backend: Backend, times: int = 1) -> Message:
    """What was told of the newest browser, once it is the one asked for."""

    def told() -> list[Message]:
        return [message for message in backend.kept if message.get("status") == "browser_reopened"]

    await backend.until(lambda: len(told()) >= times, 30)
    assert len(told()) == times
    return told()[-1]


def _kill(agent: Agent) -> None:
    os.kill(agent.part("chromium").pid, signal.SIGKILL)


async def _health(agent: Agent) -> dict[str, Any]:
    health: dict[str, Any] = (await agent.http.get(f"{agent.api}/health")).json()
    return health


async def test_killed_browser_is_replaced_with_cookies_page_and_viewers(backend: Backend, shop: Shop) -> None:
    home = running.new_home()
    try:
        async with running.started(backend, home) as agent:
            await agent.execute("navigate", url=shop.url)
            assert await agent.stop() == 0
        async with serve(TOKEN) as second, running.started(second, home) as agent, viewing(agent, "view") as viewer:
            await agent.execute("navigate", url=f"{shop.url}/order")
            _kill(agent)
            told = await _reopened(second)
            assert told["detail"] == "it crashed (was ended by SIGKILL)"
            assert told["data"]["end"] == "crash"
            state = await agent.execute("state")
            assert (state["title"], len(state["tabs"])) == ("Order tea", 1)
            assert (await agent.execute("screenshot"))["bytes"] > 1000
            await agent.execute("navigate", url=shop.url)
            assert await agent.text("#visits") == "2"
            await viewer.settle()
            health = await _health(agent)
            assert (health["status"], health["viewers"]) == ("healthy", 1)
            assert second.of("ready"), "the same attempt goes on"
            assert len(second.hellos) == 1
            assert await agent.stop() == 0
    finally:
        shutil.rmtree(home)


async def test_while_the_browser_is_replaced_health_says_so_and_commands_are_refused(backend: Backend) -> None:
    async with running.started(backend) as agent:
        seen: set[tuple[str, str]] = set()
        faults: set[tuple[str, str]] = set()

        async def look() -> None:
            while True:
                health = await _health(agent)
                seen.add((health["status"], health["detail"]))

        async def ask() -> None:
            while True:
                answer = (await agent.post("state")).json()
                faults.add((answer.get("code", "none"), answer.get("detail", "")))

        asking = [asyncio.create_task(look()), asyncio.create_task(ask())]
        _kill(agent)
        await _reopened(backend)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        words = "the browser is gone: it crashed (was ended by SIGKILL); another is being started"
        assert ("starting", words) in seen
        assert ("busy", words) in faults
        assert {code for code, _ in faults} <= {"none", "busy", "browser_failed"}
        assert (await _health(agent))["status"] == "healthy"


@pytest.mark.parametrize("path", ["/never", "/half"])
async def test_open_command_ends_with_its_fault_when_the_browser_dies(backend: Backend, site: Site, path: str) -> None:
    async with running.started(backend) as agent:
        command = asyncio.create_task(agent.fault("navigate", timeout=60, url=site.url + path))
        await running.eventually(lambda: asyncio.to_thread(site.asked.copy), lambda asked: "/never" in asked)
        _kill(agent)
        code, detail = await command
        assert (code, "gone" in detail) == ("browser_failed", True)
        await _reopened(backend)
        assert (await agent.execute("navigate", url="data:text/html,<title>well</title>"))["title"] == "well"


async def test_downloads_go_where_they_went_before(backend: Backend, site: Site) -> None:
    async with running.started(backend) as agent:
        _kill(agent)
        await _reopened(backend)
        await agent.post("navigate", url=f"{site.url}/file")
        file = agent.home / "work" / "downloads" / "tea.txt"
        await running.eventually(lambda: asyncio.to_thread(_read, file), lambda text: text == "tea")


async def test_old_browser_is_wholly_gone_before_the_new_one_starts(backend: Backend) -> None:
    """Its helpers may hang: one has the cookies open, and those for crashes lead sessions of their own."""
    async with running.started(backend) as agent:
        await agent.execute("state")
        browser, old = agent.part("chromium"), agent.browser_family()
        for helper in old:
            if helper.pid != browser.pid:
                helper.suspend()
        _kill(agent)
        told = asyncio.create_task(_reopened(backend))
        both = []
        while not told.done():
            now = agent.browser_family()
            if any(each not in old for each in now):
                both += running.alive(old)
            await asyncio.sleep(0)
        await told
        assert both == []
        assert running.alive(old) == []
        assert (await agent.execute("state"))["url"] == "about:blank"


async def test_fourth_death_within_ten_minutes_ends_the_agent_with_75(backend: Backend) -> None:
    async with running.started(backend) as agent:
        for times in (1, 2, 3):
            _kill(agent)
            await _reopened(backend, times)
        _kill(agent)
        assert await agent.ended() == 75
        assert agent.last_word()["reason"].startswith("the browser ended with -9")
        assert (await backend.status("part_lost"))["detail"] == agent.last_word()["reason"]


async def test_browser_that_dies_while_it_is_being_replaced_ends_the_agent_with_75(backend: Backend) -> None:
    async with running.started(backend) as agent:
        old = agent.browser_family()
        _kill(agent)
        (first, *_) = await running.eventually(lambda: asyncio.to_thread(_others, agent, old), bool)
        first.kill()
        assert await agent.ended() == 75
        assert agent.last_word()["reason"].startswith("the browser did not come back")
        assert (await backend.status("part_lost"))["detail"] == agent.last_word()["reason"]


async def test_browser_that_dies_in_the_start_is_a_failed_start(backend: Backend) -> None:
    async with running.started(backend, ready=False) as agent:
        (first, *_) = await running.eventually(lambda: asyncio.to_thread(_others, agent, []), bool)
        first.kill()
        assert await agent.ended() == 75
        assert agent.last_word()["reason"].startswith("Chromium does not start")
        assert not backend.of("ready")


async def test_browser_that_dies_while_the_agent_stops_is_not_replaced(backend: Backend) -> None:
    async with running.started(backend) as agent:
        browser = agent.part("chromium")
        browser.suspend()  # else it has gone by itself before we strike
        await backend.send({"type": "graceful_shutdown", "reason": "test", "withinSeconds": 20})
        await running.eventually(lambda: asyncio.to_thread(agent.tail), lambda text: '"stopping"' in text)
        browser.kill()
        assert await agent.ended() == 0
        assert "browser.lost" not in agent.log.read_text()


async def test_stop_in_the_middle_of_a_repair_is_a_stop_that_leaves_nothing(backend: Backend) -> None:
    async with running.started(backend) as agent:
        old = agent.browser_family()
        main = psutil.Process(agent.process.pid)
        _kill(agent)
        await running.eventually(lambda: asyncio.to_thread(_others, agent, old), bool)
        family = main.children(recursive=True)
        assert await agent.stop() == 0
        psutil.wait_procs(family, timeout=5)
        assert running.alive(family) == []


@pytest.mark.needs("memory_cgroup")
async def test_browser_killed_for_memory_is_replaced_with_a_fresh_page_and_the_next_death_judged_anew(
    backend: Backend, site: Site, group: Group
) -> None:
    async with running.started(backend, group=group) as agent:
        await agent.execute("state")
        _short_of_memory(agent, group)
        code, detail = await agent.fault("navigate", timeout=60, url=f"{site.url}/hungry")
        assert code == "page_oom", detail
        told = await _reopened(backend)
        assert (told["detail"], told["data"]["end"]) == ("it was killed for memory", "out_of_memory")
        assert group.oom_kills() >= 1
        assert (await agent.execute("state"))["url"] == "about:blank"
        assert site.asked.count("/hungry") == 1
        _kill(agent)
        assert (await _reopened(backend, 2))["data"]["end"] == "crash"


@pytest.mark.needs("memory_cgroup")
async def test_fourth_death_of_memory_ends_the_agent_with_76(backend: Backend, site: Site, group: Group) -> None:
    async with running.started(backend, group=group) as agent:
        for times in (1, 2, 3):
            _kill(agent)
            await _reopened(backend, times)
        _short_of_memory(agent, group)
        await agent.post("navigate", timeout=60, url=f"{site.url}/hungry")
        assert await agent.ended() == 76
        assert agent.last_word()["reason"] == "the browser was killed for memory"


def _short_of_memory(agent: Agent, group: Group) -> None:
    """Leave it little, and have the kernel choose the browser itself, not the page that asks for more."""
    Path(f"/proc/{agent.part('chromium').pid}/oom_score_adj").write_text("1000")
    held = group.memory_bytes()
    assert held is not None
    assert group.limit_memory(held + (192 << 20)) is None


def _others(agent: Agent, old: list[psutil.Process]) -> list[psutil.Process]:
    """Browser processes that are none of the old ones, the oldest first."""
    found = [each for each in agent.browser_family() if each not in old]
    return sorted(found, key=lambda each: each.create_time())


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
