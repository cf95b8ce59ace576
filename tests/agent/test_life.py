"""An agent's start, its ends, and what is left behind."""

import asyncio
import contextlib
import json
import os
import shutil
import signal

import httpx2
import psutil
import pytest

from core.dev.demo.shop import Shop
from tests.agent import running
from tests.agent.backend import Backend, free_port, serve
from tests.agent.running import TOKEN
from tests.agent.vnc import CONTROL, viewing

pytestmark = pytest.mark.needs("agent")


async def test_ordered_stop_keeps_cookies_and_exits_zero(backend: Backend, shop: Shop) -> None:
    """The browser writes cookies of the last seconds only when it is closed in order."""
    home = running.new_home()
    try:
        async with running.started(backend, home) as agent:
            await agent.execute("navigate", url=shop.url)
            assert await agent.text("#visits") == "1"
            assert await agent.stop() == 0
            assert agent.last_word()["code"] == 0
        assert not list((home / "profile").glob("Singleton*"))
        async with serve(TOKEN) as second, running.started(second, home) as agent:
            await agent.execute("navigate", url=shop.url)
            assert await agent.text("#visits") == "2"
    finally:
        shutil.rmtree(home)


async def test_nothing_of_an_agent_runs_on_after_it_has_ended(backend: Backend) -> None:
    async with running.started(backend) as agent:
        family = psutil.Process(agent.process.pid).children(recursive=True)
        assert len(family) > 4
        assert await agent.stop() == 0
        _, alive = psutil.wait_procs(family, timeout=5)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


async def test_killed_agent_takes_its_parts_with_it_and_starts_again_on_its_profile(backend: Backend) -> None:
    home = running.new_home()
    try:
        async with running.started(backend, home) as agent:
            family = psutil.Process(agent.process.pid).children(recursive=True)
            agent.process.kill()
            assert await agent.ended() == -signal.SIGKILL
            _, alive = psutil.wait_procs(family, timeout=5)
            assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        # A lock as another machine would have left it: Chromium by itself would refuse this profile.
        lock = home / "profile" / "SingletonLock"
        lock.unlink(missing_ok=True)
        lock.symlink_to("another-machine-4711")
        async with serve(TOKEN) as second, running.started(second, home) as agent:
            assert (await agent.execute("state"))["url"] == "about:blank"
    finally:
        shutil.rmtree(home)


async def test_signal_of_the_host_is_no_order_and_exits_143(backend: Backend, shop: Shop) -> None:
    async with running.started(backend) as agent:
        await agent.execute("navigate", url=shop.url)
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.ended() == 143
        assert "SIGTERM" in agent.last_word()["reason"]
        assert not list((agent.home / "profile").glob("Singleton*"))


async def test_signal_during_the_start_ends_it_without_leftovers(backend: Backend) -> None:
    async with running.started(backend, ready=False) as agent:
        main = psutil.Process(agent.process.pid)
        await running.eventually(
            lambda: asyncio.to_thread(main.children), lambda found: any(p.name() == "Xtigervnc" for p in found)
        )
        family = psutil.Process(agent.process.pid).children(recursive=True)
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.ended() == 143
        _, alive = psutil.wait_procs(family, timeout=5)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("part", ["Xtigervnc", "matchbox"])
async def test_crashed_part_ends_the_agent_with_75_and_a_word(backend: Backend, part: str) -> None:
    async with running.started(backend) as agent:
        os.kill(agent.part(part).pid, signal.SIGKILL)
        assert await agent.ended() == 75
        assert agent.last_word()["code"] == 75
        assert (await backend.status("part_lost"))["detail"]


async def test_crashed_page_is_told_and_replaced_while_the_browser_stays(backend: Backend, shop: Shop) -> None:
    async with running.started(backend) as agent:
        await agent.execute("navigate", url=f"{shop.url}/order?code=secret#also")
        browser = agent.part("chromium").pid
        renderers = [
            process
            for process in psutil.Process(browser).children(recursive=True)
            if "--type=renderer" in " ".join(process.cmdline())
        ]
        for renderer in renderers:
            os.kill(renderer.pid, signal.SIGKILL)
        told = (await backend.status("page_crashed"))["detail"]
        assert told.startswith(f"{shop.url}/order")
        assert "secret" not in told + agent.log.read_text(), "the address of a page may let one in"
        assert (await agent.execute("navigate", url=shop.url))["title"] == "Tea shop"
        assert len((await agent.execute("state"))["tabs"]) == 1
        assert agent.part("chromium").pid == browser
        assert agent.process.returncode is None


async def test_browser_closed_by_its_user_comes_back_with_its_cookies(backend: Backend, shop: Shop) -> None:
    async with running.started(backend) as agent:
        await agent.execute("navigate", url=shop.url)
        async with viewing(agent, "control") as viewer:
            for _ in range(10):  # a screen that has just started may lose a key
                await viewer.press(ord("w"), CONTROL)
                await viewer.settle()
                with contextlib.suppress(TimeoutError):
                    await backend.status("browser_reopened", 3)
                    break
        await backend.status("browser_reopened", 1)
        assert (await agent.execute("state"))["url"] == "about:blank"
        await agent.execute("navigate", url=shop.url)
        assert await agent.text("#visits") == "2"
        assert (await agent.http.get(f"{agent.api}/health")).json()["status"] == "healthy"
        assert await agent.stop() == 0


async def test_start_page_of_the_template_is_opened(backend: Backend, shop: Shop) -> None:
    async with running.started(backend, browser={"start_url": f"{shop.url}/order", "width": 1000}) as agent:
        await agent.becomes(lambda state: state["title"] == "Order tea")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AGENT_TOKEN": ""}, "AGENT_TOKEN is not set"),
        ({"AGENT_ID": ""}, "AGENT_ID is not set"),
        ({"MAIN_BACKEND_URL": "nonsense"}, "MAIN_BACKEND_URL must be"),
        ({"AGENT_PORT": "99999"}, "AGENT_PORT must be a number"),
        ({"AGENT_BROWSER": '{"width": 1}'}, "AGENT_BROWSER is wrong at width"),
        ({"AGENT_BROWSER": '{"allowed_hosts": ["a b:c/"]}'}, "allowed_hosts"),
        ({"AGENT_PROFILE": "/proc/nowhere"}, "the agent must be able to write there"),
        ({"CHROMIUM": "/nowhere/chromium"}, "/nowhere/chromium"),
    ],
)
async def test_agent_that_cannot_start_says_why_in_one_line_and_exits_78(change: dict[str, str], words: str) -> None:
    home = running.new_home()
    env = running.environment("http://127.0.0.1:9", home, free_port(), free_port()) | change
    try:
        process = await asyncio.create_subprocess_exec(
            *running.command(home), cwd="/", env=env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        shutil.rmtree(home)
    assert process.returncode == 78
    assert words in out.decode()
    assert "Traceback" not in out.decode()
    assert TOKEN not in out.decode()


async def test_taken_port_ends_the_start_with_a_word(backend: Backend) -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with taken, running.started(backend, ready=False, AGENT_PORT=str(port)) as agent:
        assert await agent.ended() == 75
        assert str(port) in agent.last_word()["reason"]


async def test_health_while_starting_and_stopping_is_not_ok(backend: Backend) -> None:
    async with running.started(backend, ready=False) as agent:
        seen: list[tuple[int, str]] = []
        async with asyncio.timeout(30):
            while not seen or seen[-1][0] != 200:
                try:
                    answer = await agent.http.get(f"{agent.api}/health")
                except httpx2.ConnectError:
                    continue  # nobody listens yet
                seen.append((answer.status_code, json.loads(answer.text)["status"]))
        assert set(seen[:-1]) <= {(503, "starting")}
        assert seen[-1] == (200, "healthy")
        browser = agent.part("chromium")
        browser.suspend()  # the stop waits for it, however fast the machine is
        stopping = asyncio.create_task(agent.stop())

        async def health() -> tuple[int, str]:
            answer = await agent.http.get(f"{agent.api}/health")
            return answer.status_code, answer.json()["status"]

        await running.eventually(health, lambda told: told == (503, "stopping"))
        browser.resume()
        assert await stopping == 0
