"""One agent as a host would run it: a process of its own, under a numeric user when we are root."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil

from core import launch
from core.runtime.cgroup import Group
from tests.agent.backend import Backend, free_port

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-agent" / "bin" / "python"
ACCOUNT = launch.Account(21001, 21001)
TOKEN = "token-of-this-agent"
T = TypeVar("T")


@dataclass
class Agent:
    """A started agent."""

    process: asyncio.subprocess.Process
    backend: Backend
    api: str
    desktop_port: int
    home: Path
    log: Path
    _count: int = 0
    http: httpx2.AsyncClient = field(default_factory=lambda: httpx2.AsyncClient(timeout=60, trust_env=False))

    async def execute(self, command: str, timeout: float = 30, **parameters: Any) -> dict[str, Any]:
        """The result of a command over HTTP; fails the test when it has none."""
        answer = await self.post(command, timeout, **parameters)
        assert answer.status_code == 200, f"{command}: {answer.status_code} {answer.text}\n{self.tail()}"
        result: dict[str, Any] = answer.json()["result"]
        return result

    async def fault(self, command: str, timeout: float = 30, **parameters: Any) -> tuple[str, str]:
        """Code and sentence of a command that must fail."""
        answer = await self.post(command, timeout, **parameters)
        body = answer.json()
        assert answer.status_code >= 400, f"{command} should have failed: {body}"
        return body["code"], body["detail"]

    async def post(self, command: str, timeout: float = 30, **parameters: Any) -> httpx2.Response:
        body = {"command": command, "parameters": parameters, "timeoutSeconds": timeout}
        return await self.http.post(f"{self.api}/execute", json=body, headers={"X-Agent-Token": TOKEN})

    async def becomes(self, accepts: Callable[[dict[str, Any]], bool], seconds: float = 10) -> dict[str, Any]:
        """The page's state once it is as asked for."""
        return await eventually(lambda: self.execute("state"), accepts, seconds)

    async def text(self, selector: str) -> str:
        found = await self.execute("extract", selector=selector)
        assert found["items"], f"nothing matches {selector} on {found['url']}"
        return str(found["items"][0])

    async def ended(self, seconds: float = 30) -> int:
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def stop(self, seconds: float = 20) -> int:
        """As Berth stops it."""
        await self.backend.send({"type": "graceful_shutdown", "reason": "test", "withinSeconds": seconds})
        return await self.ended()

    def part(self, name: str) -> psutil.Process:
        """The running part whose program has this name, the oldest when there are several."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        found = [each for each in family if each.name().startswith(name)]
        return min(found, key=lambda each: each.create_time())

    def browser_family(self) -> list[psutil.Process]:
        """The browser and all its helpers, also those that lead a session of their own."""
        found = []
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # some come and go while we look
                if each.name().startswith("chrom"):
                    found.append(each)
        return found

    def tail(self) -> str:
        return self.log.read_text()[-3000:]

    def last_word(self) -> dict[str, Any]:
        word: dict[str, Any] = json.loads((self.home / "work" / "exit.json").read_text())
        return word


def new_home() -> Path:
    """A folder that the agent's user owns."""
    home = Path(tempfile.mkdtemp(prefix="agent-test-"))
    for folder in (home, home / "work", home / "profile"):
        folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(folder, ACCOUNT.uid, ACCOUNT.gid)
    return home


def environment(backend_url: str, home: Path, api_port: int, desktop_port: int, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AGENT_ID": "ag-test",
        "USER_ID": "ada",
        "PROJECT_ID": "tea",
        "MAIN_BACKEND_URL": backend_url,
        "AGENT_TOKEN": TOKEN,
        "AGENT_PORT": str(api_port),
        "NOVNC_PORT": str(desktop_port),
        "AGENT_PROFILE": str(home / "profile"),
        "AGENT_WORK": str(home / "work"),
        "AGENT_HEARTBEAT_SECONDS": "1",
        **more,
    }


def command(home: Path, *, first: bool = False) -> list[str]:
    """`first`: as process 1 of its own, as in a container; for root only. What is started is then one before it."""
    argv = [str(PYTHON), "-m", "agent_image.agent"]
    if os.geteuid() != 0:
        return launch.command(argv)
    # The whole checkout: Python finds modules by listing their folder, which a shadowed one does not let it.
    reach = [*launch.interpreter_paths(PYTHON), ROOT, home]
    if not first:
        return launch.command(argv, account=ACCOUNT, reach=reach)
    # Said last, for with its account a process loses the signal that its parent's death is to send it.
    argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    confined = launch.command(argv, account=ACCOUNT, reach=[*reach, PYTHON], die_with_parent=False)
    return ["unshare", "--pid", "--fork", "--mount-proc", "--", *confined]


@contextlib.asynccontextmanager
async def started(
    backend: Backend,
    home: Path | None = None,
    *,
    ready: bool = True,
    browser: dict[str, Any] | None = None,
    group: Group | None = None,
    first: bool = False,
    **env: str,
) -> AsyncIterator[Agent]:
    """An agent connected to `backend`, ready unless asked otherwise, in a memory `group` if there is one.

    It is killed at the end if it still runs.
    """
    own, folder = home is None, home or new_home()
    api_port, desktop_port = free_port(), free_port()
    settings = {"allowed_hosts": ["127.0.0.1"], **(browser or {})}
    variables = environment(backend.url, folder, api_port, desktop_port, AGENT_BROWSER=json.dumps(settings), **env)
    log = folder / "agent.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(command(folder, first=first) if group is None else group.enter(command(folder, first=first))),
            cwd="/",
            env=variables,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    agent = Agent(process, backend, f"http://127.0.0.1:{api_port}", desktop_port, folder, log)
    try:
        if ready:
            await _ready(agent)
        yield agent
    finally:
        await agent.http.aclose()
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        if own:
            shutil.rmtree(folder, ignore_errors=True)


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    found = []
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


async def eventually(question: Callable[[], Awaitable[T]], accepts: Callable[[T], bool], seconds: float = 10) -> T:
    """The first answer that is accepted; fails with the last one that was not."""
    end = asyncio.get_running_loop().time() + seconds
    while not accepts(answer := await question()):
        assert asyncio.get_running_loop().time() < end, f"still {answer!r} after {seconds} s"
        await asyncio.sleep(0.03)
    return answer


async def _ready(agent: Agent) -> None:
    told = asyncio.create_task(agent.backend.until(lambda: bool(agent.backend.of("ready")), 40))
    gone = asyncio.create_task(agent.process.wait())
    done, waiting = await asyncio.wait({told, gone}, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    assert told in done, f"the agent ended:\n{agent.tail()}"
    assert told.exception() is None, f"the agent did not get ready:\n{agent.tail()}"
