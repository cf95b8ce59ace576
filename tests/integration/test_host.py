"""The host supervisor as a process: its end, its socket, what the next one knows."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx2
import pytest

from core.domain.recovery import FailureKind
from core.domain.templates import Resources, Template
from core.errors import NeverSatisfiable, RuntimePermanent, RuntimeRetryable
from core.runtime.base import AgentRuntime, Owner, Phase, PrunableRuntime
from core.runtime.folders import Folders
from core.runtime.host.address import socket_path
from core.runtime.registry import open_runtime, runtime_names
from core.settings import Settings
from tests.contracts.runtime_suite import new_spec, processes_of, watching
from tests.contracts.runtime_suite_host import HostProcess
from tests.integration.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any account can pass; pytest closes its own, again and again, to all others."""
    path = Path(tempfile.mkdtemp(prefix="open-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def host(folder: Path) -> AsyncIterator[HostProcess]:
    async with HostProcess(folder) as running:
        await running.ready()
        yield running


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[HostProcess, Path]]:
    """A host for tests that leave it as it was, and its data folder."""
    folder = tmp_path_factory.mktemp("shared") / "data"
    async with HostProcess(folder) as running:
        await running.ready()
        yield running, folder


@pytest.fixture
async def raw(shared: tuple[HostProcess, Path]) -> AsyncIterator[httpx2.AsyncClient]:
    """HTTP on its socket, without our client in between."""
    transport = httpx2.AsyncHTTPTransport(uds=str(socket_path(shared[1])))
    async with httpx2.AsyncClient(transport=transport, base_url="http://host") as client:
        yield client


@pytest.fixture
async def memory(folder: Path) -> AsyncIterator[AgentRuntime]:
    runtime = open_runtime("memory", Settings(data_dir=folder))
    yield runtime
    await runtime.close()


@pytest.fixture
async def process(folder: Path) -> AsyncIterator[AgentRuntime]:
    runtime = open_runtime("process", Settings(data_dir=folder))
    yield runtime
    await runtime.close()


@pytest.mark.needs("agent")
async def test_agents_die_with_a_killed_host_and_the_next_one_reports_them(
    host: HostProcess, process: AgentRuntime, folder: Path
) -> None:
    lost, left = new_spec(), new_spec()
    async with watching(process) as watch:
        for agent in (lost, left):
            await process.create(agent)
        await process.delete(left.agent_id, 1)
        await until(lambda: len(processes_of(lost, folder)) > 3)
        await host.kill()
        await watch.breaks()
    with pytest.raises(RuntimeRetryable, match="berth host"):
        await process.observe(lost.agent_id, 1)
    host.start()
    await host.ready()
    assert processes_of(lost, folder) == []
    assert list((folder / "host" / "work").iterdir()) == []
    seen = {known.agent_id: known for known in await process.list()}
    assert set(seen) == {lost.agent_id}
    assert (seen[lost.agent_id].phase, seen[lost.agent_id].failure) == (Phase.EXITED, FailureKind.HOST_LOST)
    assert (seen[lost.agent_id].user_id, seen[lost.agent_id].project_id) == (lost.user_id, lost.project_id)
    # Its profile is free for the attempt that follows.
    await process.create(lost.model_copy(update={"attempt": 2}))
    await process.delete(lost.agent_id, 1)
    await process.delete(lost.agent_id, 2)
    assert await process.list() == []


@pytest.mark.needs("agent")
async def test_host_told_to_stop_ends_its_agents_first(host: HostProcess, process: AgentRuntime, folder: Path) -> None:
    agent = new_spec()
    await process.create(agent)
    await until(lambda: len(processes_of(agent, folder)) > 3)
    assert await host.stop() == 0
    assert processes_of(agent, folder) == []
    host.start()
    await host.ready()
    seen = await process.observe(agent.agent_id, 1)
    assert (seen.phase, seen.failure) == (Phase.EXITED, FailureKind.HOST_LOST)


@pytest.mark.needs("agent")
async def test_host_leaves_no_zombie_when_agents_are_killed(
    host: HostProcess, process: AgentRuntime, folder: Path
) -> None:
    agent = new_spec()
    await process.create(agent)
    await until(lambda: len(processes_of(agent, folder)) > 5)
    await process.delete(agent.agent_id, 1)
    assert host.process is not None
    children = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children")
    await until(lambda: children.read_text() == "")


async def test_second_host_of_a_folder_says_who_holds_it(host: HostProcess, folder: Path) -> None:
    assert host.process is not None
    second = HostProcess(folder)
    second.log = folder.parent / "second.log"
    second.start()
    assert second.process is not None
    assert await asyncio.to_thread(second.process.wait, 20) == 1
    assert f"pid {host.process.pid}" in second.log.read_text()
    assert (folder / "run" / "host.ready").read_text().strip() == str(host.process.pid)


@pytest.fixture
def unusable(folder: Path) -> Path:
    folder.mkdir()
    (folder / "host").write_text("in the way")
    return folder


async def test_data_folder_that_cannot_be_used_is_said_in_one_line(unusable: Path) -> None:
    host = HostProcess(unusable)
    host.start()
    assert await host.stop(signal_it=False) == 1
    (line,) = host.log.read_text().splitlines()
    assert str(unusable) in json.loads(line)["detail"]


async def test_host_announces_itself_only_while_it_serves(host: HostProcess, folder: Path) -> None:
    assert (folder / "run" / "host.ready").exists()
    await host.stop()
    assert not (folder / "run" / "host.ready").exists()
    assert not (folder / "host" / "host.sock").exists()


async def test_client_follows_a_host_that_was_restarted(host: HostProcess, memory: AgentRuntime) -> None:
    first, second = new_spec(), new_spec()
    await memory.create(first)
    await host.kill()
    host.start()
    await host.ready()
    await memory.create(second)
    assert second.agent_id in {seen.agent_id for seen in await memory.list()}


async def test_folder_with_a_very_long_path_is_served(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("path" * 20)
    folder.mkdir(parents=True)
    runtime = open_runtime("memory", Settings(data_dir=folder))
    async with HostProcess(folder) as host:
        await host.ready()
        assert await runtime.list() == []
        place = socket_path(folder)
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        await host.kill()
        host.start()
        await host.ready()
        assert await runtime.list() == []
        assert not place.exists()
    await runtime.close()
    assert not socket_path(folder).parent.joinpath("host.sock").exists()


async def test_unknown_runtime_is_refused_with_the_known_ones_named() -> None:
    assert {"memory", "process"} <= set(runtime_names())
    with pytest.raises(RuntimePermanent, match=r"known are: .*memory.*process"):
        open_runtime("abacus", Settings())


async def test_template_larger_than_the_machine_can_never_be_had(
    host: HostProcess, process: AgentRuntime, folder: Path
) -> None:
    for resources in (Resources(memory_mib=1 << 30), Resources(cpu=10_000)):
        with pytest.raises(NeverSatisfiable):
            await process.create(new_spec(template=Template(resources=resources)))
        with pytest.raises(NeverSatisfiable, match="this machine has"):
            await process.check(Template(resources=resources))
    await process.check(Template())
    assert await process.list() == []
    await process.close()


async def test_host_clears_away_unused_profiles_of_a_runtime_that_keeps_any(
    host: HostProcess, process: AgentRuntime, memory: AgentRuntime, folder: Path
) -> None:
    for name in ("unused", "kept"):
        profile = folder / "host" / "profiles" / Folders.owner(name, "shop")
        profile.mkdir()
        os.utime(profile, (0, 0))
    assert isinstance(process, PrunableRuntime)
    assert isinstance(memory, PrunableRuntime)
    keep = [Owner(user_id="kept", project_id="shop")]
    assert (await memory.prune(timedelta(days=30), keep)).profiles == 0
    assert (await process.prune(timedelta(days=30), keep)).profiles == 1
    assert [path.name for path in (folder / "host" / "profiles").iterdir()] == [Folders.owner("kept", "shop")]


@pytest.mark.needs("root")
async def test_other_accounts_cannot_open_the_socket(open_folder: Path) -> None:
    folder = open_folder / "data"
    async with HostProcess(folder) as host:
        await host.ready()
        place = socket_path(folder)
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(place)!r})"
        stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code]
        done = await asyncio.to_thread(subprocess.run, stranger, capture_output=True, text=True, timeout=20, cwd="/")
        assert "PermissionError" in done.stderr


BAD_REQUESTS = {
    "unknown runtime": ("GET", "/abacus/agents", b"", 404),
    "unknown path": ("GET", "/memory/secrets", b"", 404),
    "wrong method": ("PATCH", "/memory/agents/ag-1/1", b"", 405),
    "attempt that is no number": ("GET", "/memory/agents/ag-1/one", b"", 404),
    "agent id that climbs": ("GET", "/process/agents/..%2f..%2fetc/1", b"", 404),
    "agent id with odd characters": ("GET", "/process/agents/a%00b/logs", b"", 422),
    "too long an agent id": ("GET", f"/memory/agents/{'a' * 64}/1", b"", 422),
    "garbage for a spec": ("PUT", "/memory/agents/ag-1/1", b"\xff\x00{", 422),
    "spec without fields": ("PUT", "/memory/agents/ag-1/1", b"{}", 422),
    "huge body": ("PUT", "/memory/agents/ag-1/1", b"x" * (2 << 20), 413),
    "grace that is no number": ("DELETE", "/memory/agents/ag-1/1?grace=nan", b"", 422),
    "grace below nothing": ("DELETE", "/memory/agents/ag-1/1?grace=-1", b"", 422),
    "template that is none": ("POST", "/process/check", b"{}", 422),
    "room for what is no template": ("GET", '/memory/capacity?wanted={"a":{"resources":7}}', b"", 422),
    "less than no time": ("POST", "/process/prune", b'{"unused_seconds": -1, "keep": []}', 422),
    "profile of nobody": ("POST", "/process/profiles/delete", b"[]", 422),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_bad_request_is_refused_and_the_host_lives_on(raw: httpx2.AsyncClient, name: str) -> None:
    method, path, body, status = BAD_REQUESTS[name]
    answer = await raw.request(method, path, content=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"code", "detail"}
    assert (await raw.get("/health")).status_code == 200


async def test_older_control_plane_is_told_of_the_room_in_words_it_knows(raw: httpx2.AsyncClient) -> None:
    of_before = {"fits", "agents", "cpu_percent", "memory_percent", "disk_percent", "network_mbit", "memory_bytes"}
    of_before |= {"schedulable_nodes"}
    assert set((await raw.get("/process/capacity")).json()) <= of_before
    asked = (await raw.get("/process/capacity", params={"wanted": '{"a":{},"b":{"resources":{"cpu":1}}}'})).json()
    assert set(asked["fits_of"]) == {"a", "b"}


async def test_bytes_that_are_no_http_are_refused(shared: tuple[HostProcess, Path]) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(20)
        stranger.connect(str(socket_path(shared[1])))
        stranger.sendall(os.urandom(100_000).replace(b"\n", b"\r\n") + b"\r\n\r\n")
        assert b" 400 " in await asyncio.to_thread(stranger.recv, 100)


async def test_token_in_a_refused_spec_is_not_said_back(
    raw: httpx2.AsyncClient, shared: tuple[HostProcess, Path]
) -> None:
    answer = await raw.put("/memory/agents/ag-1/1", json={"token": {"very": "secret-token"}, "attempt": "x"})
    assert answer.status_code == 422
    assert "secret-token" not in answer.text
    assert "secret-token" not in shared[0].log.read_text()


def as_ordinary_user(uid: int, home: Path) -> list[str]:
    """Words that start what follows them as `uid`, with our interpreter and checkout in its reach."""
    code = (
        "from pathlib import Path\n"
        "from core import launch\n"
        f"python, root, home = Path({sys.executable!r}), Path({str(ROOT)!r}), Path({str(home)!r})\n"
        "reach = [*launch.interpreter_paths(python), *launch.interpreter_paths(root / '.venv-agent/bin/python')]\n"
        f"account = launch.Account({uid}, {uid})\n"
        "words = launch.command(['env'], account=account, reach=[*reach, root, home], die_with_parent=False)\n"
        "print(json.dumps(words))"
    )
    argv = [sys.executable, "-c", f"import json\n{code}"]
    made = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True, cwd=ROOT)
    words: list[str] = json.loads(made.stdout)
    return words


@pytest.mark.needs("root", "agent", "mount_namespace")
async def test_ordinary_user_runs_agents_too(open_folder: Path) -> None:
    """A whole host under an account without any rights: its agents run as it does, and end with nothing left."""
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, 61_234, 61_234)
    folder = home / "data"
    async with HostProcess(folder, before=as_ordinary_user(61_234, home)) as host:
        await host.ready()
        assert host.process is not None
        runtime = open_runtime("process", Settings(data_dir=folder))
        try:
            for grace in (0, 10):
                agent = new_spec()
                await runtime.create(agent)
                reach = await runtime.reach(agent.agent_id, 1)
                await until(partial(answers, reach.api_url))
                assert (folder / "host").stat().st_uid == 61_234
                assert len(processes_of_account(61_234)) > 4
                await runtime.delete(agent.agent_id, 1, grace)
                assert processes_of_account(61_234) == [str(host.process.pid)]
        finally:
            await runtime.close()


async def answers(url: str) -> bool:
    async with httpx2.AsyncClient(trust_env=False) as client:
        try:
            return (await client.get(f"{url}/health")).status_code == 200
        except httpx2.TransportError:
            return False


def processes_of_account(uid: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            status = (entry / "status").read_text()
            if str(uid) in status.partition("\nUid:")[2].partition("\n")[0].split() and "\nState:\tZ" not in status:
                found.append(entry.name)
    return found
