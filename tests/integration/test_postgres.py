"""The embedded PostgreSQL, with a real server."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from core import launch
from core.dev.ports import Ports
from core.dev.postgres import Postgres
from core.dev.supervise import Supervised, running
from tests.integration.waiting import until

ACCOUNT = launch.Account(209_990, 209_990) if os.geteuid() == 0 else None


@pytest.fixture
async def postgres(tmp_path: Path) -> Postgres:
    return Postgres(tmp_path / "postgres", Ports().pick(0), "5ecret" * 4, ACCOUNT)


@pytest.fixture
async def server(postgres: Postgres, tmp_path: Path) -> AsyncIterator[Supervised]:
    async with running(postgres.part(), tmp_path / "log") as supervised:
        yield supervised


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_killed_server_comes_back_with_its_data(postgres: Postgres, server: Supervised) -> None:
    await query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid not in (None, first) and server.ready)
    assert await query(postgres.url, "SELECT answer FROM kept") == 42


async def test_data_outlives_an_orderly_stop(postgres: Postgres, tmp_path: Path) -> None:
    async with running(postgres.part(), tmp_path / "log"):
        await query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    async with running(postgres.part(), tmp_path / "log"):
        assert await query(postgres.url, "SELECT answer FROM kept") == 42
    assert "recovery" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("argv", [["sleep", "600"], ["true"]], ids=["living", "zombie"])
async def test_server_starts_although_its_stale_lock_names_another_program(
    postgres: Postgres, tmp_path: Path, argv: list[str]
) -> None:
    await postgres.make()
    wrapped = launch.command(argv, account=ACCOUNT)
    with subprocess.Popen(wrapped) as other:  # noqa: ASYNC220 (forked, not waited for)
        if argv == ["true"]:
            await until(lambda: launch.start_time(other.pid) is None)
        (postgres.data / "postmaster.pid").write_text(
            f"{other.pid}\n{postgres.data}\n1700000000\n{postgres.port}\n\n127.0.0.1\n 1 1\nready\n"
        )
        async with running(postgres.part(), tmp_path / "log"):
            assert await query(postgres.url, "SELECT 1") == 1
        assert "FATAL" not in (tmp_path / "log").read_text()
        other.kill()


async def test_orphaned_server_of_an_earlier_start_makes_way(postgres: Postgres, tmp_path: Path) -> None:
    await postgres.make()
    part = postgres.part()
    orphan = subprocess.Popen(  # noqa: ASYNC220 (forked, not waited for)
        launch.command(part.argv, account=part.account, reach=part.reach),
        env=dict(part.env),
        cwd=part.cwd,
        stderr=subprocess.DEVNULL,
    )
    assert part.ready is not None
    ready = part.ready
    await until(lambda: ready(orphan.pid))
    async with running(part, tmp_path / "log"):
        assert orphan.wait(timeout=10) is not None
        assert await query(postgres.url, "SELECT 1") == 1


async def test_setup_that_was_interrupted_is_made_anew(postgres: Postgres, tmp_path: Path) -> None:
    half = tmp_path / "postgres.new" / "base"
    half.mkdir(parents=True)
    async with running(postgres.part(), tmp_path / "log"):
        assert await query(postgres.url, "SELECT 1") == 1
    assert sorted(os.listdir(tmp_path)) == ["log", "postgres"]


@pytest.mark.usefixtures("server")
async def test_only_the_password_opens_the_database(postgres: Postgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await query(postgres.url.replace(postgres.password, "guess"), "SELECT 1")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await query(postgres.url.replace("berth:", "postgres:"), "SELECT 1")


@pytest.mark.usefixtures("server")
async def test_our_role_is_no_superuser_and_owns_its_database(postgres: Postgres) -> None:
    assert await query(postgres.url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    assert (
        await query(postgres.url, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'berth'") == "berth"
    )


@pytest.mark.needs("root")
async def test_server_of_root_runs_under_an_account_of_its_own(postgres: Postgres, server: Supervised) -> None:
    assert ACCOUNT is not None
    assert os.stat(f"/proc/{server.pid}").st_uid == ACCOUNT.uid
    assert os.stat(postgres.data).st_mode & 0o077 == 0


def test_password_shows_in_no_representation(tmp_path: Path) -> None:
    assert "hush" not in repr(Postgres(tmp_path, 1, "hush"))
