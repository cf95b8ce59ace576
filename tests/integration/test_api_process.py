"""The API as a process: it starts before its neighbours, says when it is ready, and leaves when told to."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.frames import CloseCode

from api.auth import Role, issue
from core.db.engine import Db
from core.db.repositories import projects, users
from core.dev.ports import Ports
from core.domain.wire import Execute
from core.settings import Auth, Settings
from tests.fakes.agent import Answer
from tests.fixtures.api import SECRET
from tests.fixtures.live import LiveStage, RecordedLives, StandInRuntime
from tests.fixtures.stage import until

_RUN = """
import asyncio, os, sys
from api.app import run_api
from core import telemetry
from core.errors import BerthError
from core.leaving import leave
from core.settings import Settings
telemetry.configure("api")
async def breaks(*_):
    while not os.path.exists(os.path.join(os.environ["BERTH_DATA_DIR"], "break")):
        await asyncio.sleep(0.02)
    raise RuntimeError("made to break")
exec(os.environ.get("BREAKS", ""))
try:
    leave(asyncio.run(run_api(Settings())))
except BerthError as error:
    sys.exit(error.error_code)
"""


@asynccontextmanager
async def _process(
    folder: Path, port: int, database: str, temporal: str, *, breaks: str = "", **more: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    settings = {
        "DATA_DIR": str(folder),
        "API__PORT": str(port),
        "DATABASE__URL": database,
        "TEMPORAL__ADDRESS": temporal,
        "AUTH__SECRET": SECRET,
        "POOL__RUNTIME": "memory",
        **more,
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("BERTH_")}
    env |= {f"BERTH_{name}": value for name, value in settings.items()} | {"BREAKS": breaks}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _RUN, env=env, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _announced(file: Path, process: asyncio.subprocess.Process) -> str:
    async def there() -> bool:
        assert process.returncode is None, "the API ended"
        return await asyncio.to_thread(file.exists)

    await until(there, "the API to be ready")
    return await asyncio.to_thread(file.read_text)


async def test_api_without_temporal_serves_reads_and_tells_starts_to_come_back(
    tmp_path: Path, database_url: str
) -> None:
    async with Db.open(database_url, application="test", pool_size=1) as db, db.transaction() as session:
        await users.put(session, "owner")
        await projects.add(session, "shop", ["owner"])
    auth = Auth(secret=SecretStr(SECRET))
    token = issue(auth, "owner", Role.USER, datetime.now(UTC), timedelta(minutes=5))
    ports = Ports()
    port, nobody = ports.pick(0), ports.pick(0)
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        _process(tmp_path, port, database_url, f"127.0.0.1:{nobody}") as process,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as http,
    ):
        assert await _announced(tmp_path / "run" / "api.ready", process) == str(process.pid)
        assert (await http.get("/api/me")).json()["userId"] == "owner"
        ready = await http.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"] == "ok"
        assert ready.json()["checks"]["temporal"] != "ok"
        start = await http.post("/api/projects/shop/start-agent", headers={"Idempotency-Key": "k"})
        assert (start.status_code, start.json()["code"]) == (503, "temporal_unavailable")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
        assert not await asyncio.to_thread((tmp_path / "run" / "api.ready").exists)
        assert token not in said.decode()


@asynccontextmanager
async def _stage(database: str, port: int) -> AsyncIterator[LiveStage]:
    """The process seen as a replica, with agents and users to order."""
    settings = Settings(auth=Auth(secret=SecretStr(SECRET)))
    async with (
        Db.open(database, application="test", pool_size=1) as db,
        httpx2.AsyncClient(timeout=30) as http,
    ):
        url = f"http://127.0.0.1:{port}"
        yield LiveStage(db, database, settings, RecordedLives(), StandInRuntime(), [url], [], http)


async def test_caller_who_waits_for_a_command_when_the_api_leaves_is_told_so_and_the_command_goes_on(
    tmp_path: Path, database_url: str
) -> None:
    async def never(_: Execute) -> Answer:
        return None

    port = Ports().pick(0)
    async with (
        _process(tmp_path, port, database_url, "127.0.0.1:1") as process,
        _stage(database_url, port) as stage,
    ):
        await _announced(tmp_path / "run" / "api.ready", process)
        agent = await stage.agent(await stage.user("ann"))
        async with stage.fake(agent, execute=never).online() as fake:
            waiting = asyncio.create_task(stage.execute(agent, {"command": "state", "timeoutSeconds": 600}, key="k"))
            await fake.until(lambda fake: fake.runs == ["k"])
            process.send_signal(signal.SIGTERM)
            answer = await waiting
        assert answer.headers["content-type"] == "application/problem+json"
        told = answer.json()
        assert (answer.status_code, told["code"]) == (503, "server_leaving")
        assert (told["commandId"], told["action"]) == ("k", "ask_for_the_command")
        assert int(answer.headers["Retry-After"]) > 0
        assert await stage.rows("SELECT state FROM commands WHERE command_id = 'k'") == [{"state": "sent"}]
        async with asyncio.timeout(20):
            await process.communicate()
        assert process.returncode == 0


async def test_request_that_the_leaving_api_has_no_time_for_is_told_to_come_again(
    tmp_path: Path, database_url: str
) -> None:
    hangs = """
from core.db.repositories import users
async def require(*_):
    open(os.path.join(os.environ["BERTH_DATA_DIR"], "asked"), "w").close()
    await asyncio.Event().wait()
users.require = require
"""
    port = Ports().pick(0)
    token = issue(Auth(secret=SecretStr(SECRET)), "owner", Role.USER, datetime.now(UTC), timedelta(minutes=5))
    async with (
        _process(tmp_path, port, database_url, "127.0.0.1:1", breaks=hangs) as process,
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
    ):
        await _announced(tmp_path / "run" / "api.ready", process)
        waiting = asyncio.create_task(http.get(f"http://127.0.0.1:{port}/api/me"))
        await _announced(tmp_path / "asked", process)
        process.send_signal(signal.SIGTERM)
        answer = await waiting
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, answer.json()["code"]) == (503, "server_leaving")
        assert int(answer.headers["Retry-After"]) > 0


async def test_port_that_is_taken_is_told_by_a_code(tmp_path: Path, database_url: str) -> None:
    taken = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    async with taken, _process(tmp_path, taken.sockets[0].getsockname()[1], database_url, "127.0.0.1:1") as process:
        async with asyncio.timeout(40):
            _, said = await process.communicate()
        assert process.returncode == 1
        assert said.decode().strip().splitlines()[-1] == "port_taken"


async def test_agents_are_answered_at_an_address_of_their_own_beside_that_of_people(
    tmp_path: Path, database_url: str
) -> None:
    port = Ports().pick(0)
    async with _process(tmp_path, port, database_url, "127.0.0.1:1", API__AGENT_HOST="127.0.0.2") as process:
        await _announced(tmp_path / "run" / "api.ready", process)
        for host in ("127.0.0.1", "127.0.0.2"):
            async with httpx2.AsyncClient(timeout=30) as http:
                assert (await http.get(f"http://{host}:{port}/health")).status_code == 200
        async with httpx2.AsyncClient(timeout=30) as http:
            with pytest.raises(httpx2.ConnectError):
                await http.get(f"http://127.0.0.3:{port}/health")


@pytest.mark.parametrize(
    ("part", "breaks"),
    [
        ("listener", "from core.db.notify import Listener; Listener._run = breaks"),
        ("positions", "from api.live.positions import Positions; Positions.run = breaks"),
        ("presence", "from api.live import hub; hub.stay_present = breaks"),
    ],
    ids=["listener", "positions", "presence"],
)
async def test_api_whose_part_broke_closes_its_sockets_and_ends_to_be_started_anew(
    tmp_path: Path, database_url: str, part: str, breaks: str
) -> None:
    async with Db.open(database_url, application="test", pool_size=1) as db, db.transaction() as session:
        await users.put(session, "owner")
    token = issue(Auth(secret=SecretStr(SECRET)), "owner", Role.USER, datetime.now(UTC), timedelta(minutes=5))
    port = Ports().pick(0)
    async with _process(tmp_path, port, database_url, "127.0.0.1:1", breaks=breaks) as process:
        await _announced(tmp_path / "run" / "api.ready", process)
        url, headers = f"ws://127.0.0.1:{port}/ws/events", {"Authorization": f"Bearer {token}"}
        async with asyncio.timeout(20), connect(url, additional_headers=headers, proxy=None) as socket:
            await asyncio.to_thread((tmp_path / "break").touch)
            await socket.wait_closed()
            _, said = await process.communicate()
    assert socket.close_code == CloseCode.SERVICE_RESTART
    assert process.returncode == 1
    (told,) = [line for line in said.decode().splitlines() if "process.part_ended" in line]
    assert f"part={part}" in told
    assert "RuntimeError: made to break" in said.decode()
    assert not await asyncio.to_thread((tmp_path / "run" / "api.ready").exists)
