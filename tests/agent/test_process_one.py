"""The agent as process 1, which it is in a container: what an init does there, it does itself."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from core.domain.wire import AgentExit
from tests.agent import running
from tests.agent.backend import Backend
from tests.agent.running import ACCOUNT, TOKEN, Agent

pytestmark = pytest.mark.needs("agent", "root")

_NOT_LOADED = """
import pathlib, time
pathlib.Path(__file__).with_name("loading").touch()
time.sleep(600)
"""


def main_of(agent: Agent) -> psutil.Process:
    """The agent itself; what the test has started is its parent, outside."""
    (main,) = psutil.Process(agent.process.pid).children()
    assert Path(f"/proc/{main.pid}/status").read_text().partition("\nNSpid:")[2].split()[1] == "1"
    return main


@pytest.fixture
async def stubborn_home() -> AsyncIterator[Path]:
    """Where an agent is never loaded to the end."""
    home = running.new_home()
    (home / "pydantic.py").write_text(_NOT_LOADED)
    yield home
    shutil.rmtree(home)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda agent: main_of(agent).terminate(), AgentExit.TOLD_BY_HOST),
        (lambda agent: agent.part("Xtigervnc").kill(), AgentExit.PART_CRASHED),
    ],
    ids=["told by its host", "without its screen"],
)
async def test_process_one_leaves_in_order_with_the_code_of_its_end(
    backend: Backend, end: Callable[[Agent], None], code: AgentExit
) -> None:
    async with running.started(backend, first=True) as agent:
        end(agent)
        assert await agent.ended() == code
        assert agent.last_word()["code"] == code


async def test_process_one_that_is_still_being_loaded_hears_that_it_is_to_go(
    backend: Backend, stubborn_home: Path
) -> None:
    """The kernel lets process 1 hear only what it has a handler for."""
    path = f"{stubborn_home}:{running.ROOT}"
    async with running.started(backend, stubborn_home, first=True, ready=False, PYTHONPATH=path) as agent:
        await running.eventually(lambda: asyncio.to_thread((stubborn_home / "loading").exists), bool, 20)
        main_of(agent).terminate()
        assert await agent.ended(5) == AgentExit.TOLD_BY_HOST


async def test_process_one_collects_what_others_left_behind(backend: Backend) -> None:
    async with running.started(backend, first=True) as agent:
        main = main_of(agent)
        inside = ("nsenter", "--target", str(main.pid), "--pid", "--", "sh", "-c", "sleep 0.5 & echo $!")
        leaving = await asyncio.create_subprocess_exec(*inside, stdout=asyncio.subprocess.PIPE)
        await leaving.communicate()

        async def left() -> list[str]:
            found = []
            for each in main.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(each.name())
            return [name for name in found if name == "sleep"]

        await running.eventually(left, lambda names: names == ["sleep"])
        await running.eventually(left, lambda names: names == [], 15)


async def test_no_process_of_a_container_shows_its_secrets_to_the_browsers_user(backend: Backend) -> None:
    key = "key-of-the-model"
    url = backend.url
    async with running.started(backend, first=True, LLM_BASE_URL=url, LLM_MODEL="m", LLM_API_KEY=key) as agent:
        family = [main_of(agent), *main_of(agent).children(recursive=True)]
        assert len(family) > 4
        for each in family:
            shown = await asyncio.create_subprocess_exec(
                *("setpriv", "--reuid", str(ACCOUNT.uid), "--regid", str(ACCOUNT.gid), "--clear-groups", "--"),
                *("cat", f"/proc/{each.pid}/environ"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            out, _ = await shown.communicate()
            assert TOKEN.encode() not in out
            assert key.encode() not in out
