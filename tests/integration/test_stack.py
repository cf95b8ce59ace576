"""The local stack as a whole: its life, its folder, its ports. Berth's own parts are stood in for."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from core import launch
from core.dev.failure import CannotStart
from core.dev.folder import DataFolder
from core.dev.stack import Stack, run_stack
from core.dev.supervise import Part
from tests.integration.stack_program import GIVEN, here, options_for
from tests.integration.waiting import until

Running = tuple[asyncio.subprocess.Process, dict[str, Any]]


@asynccontextmanager
async def started(data: Path) -> AsyncIterator[Running]:
    """A stack in a process of its own, ready, and its description."""
    argv = [sys.executable, "-m", "tests.integration.stack_program", str(data)]
    process = await asyncio.create_subprocess_exec(*launch.command(argv), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while not (line := await process.stdout.readline()).startswith(b"ready  http://127.0.0.1:"):
                assert line, "the stack ended before it was ready"
            yield process, json.loads((data / "stack.json").read_text())
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(30):
            await process.communicate()


def identities(pids: Mapping[str, int]) -> dict[int, int]:
    found = {pid: launch.start_time(pid) for pid in pids.values()}
    assert None not in found.values()
    return {pid: started for pid, started in found.items() if started is not None}


def program(name: str, *argv: str, after: Sequence[str] = ()) -> Part:
    async def ready(pid: int) -> bool:
        return True

    return Part(name, argv, {"PATH": os.environ["PATH"]}, ready, after)


async def test_killed_stack_takes_its_children_along_and_the_next_start_finds_the_data(tmp_path: Path) -> None:
    async with started(tmp_path / "data") as (first, said):
        connection = await asyncpg.connect(said["database"], timeout=10)
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        children = identities(said["pids"])
        assert set(said["pids"]) == {"postgres", "temporal", "worker"}
        first.kill()
        await until(lambda: not any(launch.is_same_process(*child) for child in children.items()))
        connection.terminate()
    async with started(tmp_path / "data") as (_, said):
        connection = await asyncpg.connect(said["database"], timeout=10)
        assert await connection.fetchval("SELECT answer FROM kept") == 42
        await connection.close()


async def test_second_start_in_a_folder_says_who_holds_it(tmp_path: Path) -> None:
    async with started(tmp_path / "data") as (first, said):
        second, _ = here(tmp_path / "data")
        with pytest.raises(CannotStart, match=rf"in use by process {first.pid} since 20\d\d-.*--data-dir"):
            await second.start()
        await second.stop()
        # The one that runs has not noticed.
        assert identities(said["pids"])
        assert json.loads((tmp_path / "data" / "stack.json").read_text())["pids"] == said["pids"]


async def test_orderly_stop_leaves_no_process_and_no_description(tmp_path: Path) -> None:
    async with started(tmp_path / "data") as (process, said):
        children = identities(said["pids"])
        description = tmp_path / "data" / "stack.json"
        assert os.stat(description).st_mode & 0o777 == 0o600
        process.terminate()
        async with asyncio.timeout(20):
            await process.communicate()
        assert process.returncode == 0
        assert not any(launch.is_same_process(*child) for child in children.items())
        assert "stack.json" not in os.listdir(tmp_path / "data")


async def test_description_follows_a_part_that_is_started_again(tmp_path: Path) -> None:
    stack, said = here(tmp_path / "data", [program("worker", "sleep", "600")])
    try:
        await stack.start()
        first = stack.pids["worker"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: stack.pids.get("worker") not in (None, first))
        written = json.loads((tmp_path / "data" / "stack.json").read_text())
        assert written["pids"] == stack.pids
        assert set(written) == {"api", "dashboard", "temporal", "temporalUi", "database", "runtime", "pids"}
        assert "worker ended (killed by SIGKILL); starting it again in 0.1 s" in said
    finally:
        await stack.stop()


async def test_taken_ports_give_way_to_the_next_free_ones_and_it_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        stack, said = here(tmp_path / "data", api_port=port, **GIVEN)
        try:
            await stack.start()
            free = int(str(stack.addresses["api"]).rpartition(":")[2])
            assert port < free < port + 50
            assert f"port {port} is taken: the API is on {free}" in said
        finally:
            await stack.stop()


@pytest.mark.parametrize(
    ("host", "why"),
    [("192.0.2.1", r"Nothing can listen on 192\.0\.2\.1: Cannot assign"), ("a b", "a b is no address to listen on")],
)
async def test_address_that_is_not_ours_is_one_clear_line(tmp_path: Path, host: str, why: str) -> None:
    stack, _ = here(tmp_path / "data", api_host=host, **GIVEN)
    try:
        with pytest.raises(CannotStart, match=why):
            await stack.start()
    finally:
        await stack.stop()


async def test_given_servers_are_used_instead_of_own_ones(tmp_path: Path) -> None:
    seen: dict[str, str] = {}

    def own_parts(env: Mapping[str, str]) -> Sequence[Part]:
        seen.update(env)
        return []

    options = options_for(tmp_path / "data", **GIVEN)
    stack = Stack(options, lambda _: None, own_parts)
    try:
        await stack.start()
        assert stack.pids == {}
        assert (seen["BERTH_DATABASE__URL"], seen["BERTH_TEMPORAL__ADDRESS"]) == ("postgresql://db/x", "t:1")
    finally:
        await stack.stop()


async def test_part_that_cannot_start_is_named_with_its_last_words_and_nothing_stays(tmp_path: Path) -> None:
    broken = program("api", "sh", "-c", "echo reading settings; echo berth: no such setting: HOST >&2; exit 2")
    broken = Part(broken.name, broken.argv, broken.env, None)
    stack, _ = here(tmp_path / "data", [broken, program("worker", "sleep", "600")])
    try:
        with pytest.raises(CannotStart, match=r"^api did not start: no such setting: HOST \(log: .*/logs/api\.log\)$"):
            await stack.start()
    finally:
        await stack.stop()
    assert stack.pids == {}


async def test_parts_stop_before_what_they_need(tmp_path: Path) -> None:
    def noting(name: str, after: Sequence[str] = ()) -> Part:
        on_term = f"trap 'echo {name} >> {tmp_path}/order; exit 0' TERM"
        code = f"{on_term}; touch {tmp_path}/{name}; while :; do sleep 0.02; done"

        async def ready(pid: int) -> bool:
            return name in os.listdir(tmp_path)

        return Part(name, ["sh", "-c", code], {"PATH": os.environ["PATH"]}, ready, after)

    own_parts = [noting("store"), noting("worker", ["store"]), noting("api", ["worker"])]
    stack, _ = here(tmp_path / "data", own_parts, **GIVEN)
    await stack.start()
    await stack.stop()
    assert (tmp_path / "order").read_text().split() == ["api", "worker", "store"]


async def test_migrations_run_once_and_again_only_when_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    monkeypatch.setattr("core.dev.stack._MIGRATIONS", migrations)
    migrate = Part("migrate", ["sh", "-c", f"echo ran >> {tmp_path}/ran"], {"PATH": os.environ["PATH"]})

    async def up_and_down() -> int:
        stack, _ = here(tmp_path / "data", [migrate], temporal_address="t:1")
        try:
            await stack.start()
        finally:
            await stack.stop()
        return len((tmp_path / "ran").read_text().split())

    assert [await up_and_down(), await up_and_down()] == [1, 1]
    (migrations / "0002_more.py").write_text("# another")
    assert await up_and_down() == 2


async def test_stack_asked_to_stop_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    said: list[str] = []
    data = tmp_path / "data"

    async def interrupt() -> None:
        await until((data / "postgres.new").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    interrupting = loop.create_task(interrupt())
    try:
        assert await run_stack(options_for(data), said.append) == 0
    finally:
        await interrupting
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, before)
    assert not any(line.startswith("ready") for line in said)
    assert "postgres" not in os.listdir(data)
    # The folder is free again.
    DataFolder.open(data).close()
