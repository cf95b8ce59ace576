"""PostgreSQL and Temporal one at a time, as containers of a rehearsal deployment run them, and who waits for them."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx2

from core.dev.ports import Ports
from tests.fixtures.database import scratch_database
from tests.fixtures.terminal import Cli

PASSWORD = "5ecret" * 4


def outer_address() -> str:
    """An address of this machine that is not loopback, or loopback where there is no network at all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: the kernel only chooses a way.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@asynccontextmanager
async def database(cli: Cli, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    alone = Cli(cli.home, {"BERTH_DATA_DIR": str(cli.home / "data"), "BERTH_DATABASE_PASSWORD": PASSWORD})
    async with alone.running("database", "--port", str(port)) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, said.decode()


async def test_part_waits_until_somebody_else_has_made_database_and_schema(cli: Cli) -> None:
    port = Ports().pick(0)
    berth = cli.given(DATABASE__URL=f"postgresql://berth:{PASSWORD}@{outer_address()}:{port}/berth")
    async with berth.running("migrate", "--check", "--wait=100") as waiting, database(cli, port):
        migrated = await berth("migrate", "--wait=60")
        assert migrated.code == 0, migrated.err
        _, said = await asyncio.wait_for(waiting.communicate(), 30)
        assert waiting.returncode == 0, said.decode()


async def test_check_changes_nothing_and_says_what_to_run(cli: Cli, postgres_server: str) -> None:
    async with scratch_database(postgres_server) as url:
        said = await cli.given(DATABASE__URL=url)("migrate", "--check")
        assert said.code == 4
        assert said.err.splitlines()[-1].endswith("(run: berth migrate)")
        there = await asyncpg.connect(url)
        assert await there.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        await there.close()


async def test_database_refuses_who_comes_with_another_password(cli: Cli) -> None:
    port = Ports().pick(0)
    right, wrong = (
        cli.given(DATABASE__URL=f"postgresql://berth:{password}@{outer_address()}:{port}/berth")
        for password in (PASSWORD, "wrong")
    )
    async with database(cli, port):
        assert (await right("migrate", "--wait=60")).code == 0
        said = await wrong("migrate", "--check")
        assert said.code != 0
        assert "password authentication failed" in said.err


async def test_temporal_serves_the_network_and_leaves_in_order(cli: Cli) -> None:
    ports = Ports()
    port, ui, http = (ports.pick(0) for _ in range(3))
    alone = Cli(cli.home, {"BERTH_DATA_DIR": str(cli.home / "data")})
    words = ("--port", str(port), "--ui-port", str(ui), "--http-port", str(http))
    async with alone.running("temporal", *words) as process, httpx2.AsyncClient(timeout=3) as client:
        async with asyncio.timeout(60):
            while True:
                assert process.returncode is None
                try:
                    where = f"http://{outer_address()}:{http}/api/v1/namespaces/default"
                    if (await client.get(where)).status_code == 200:
                        break
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, said.decode()


async def test_database_without_a_password_does_not_start(cli: Cli) -> None:
    said = await cli("database")
    assert said.code == 2
    assert "BERTH_DATABASE_PASSWORD" in said.line
