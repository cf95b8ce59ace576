"""The command line as whoever runs Berth uses it: settings, users, parts, the local stack."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from core import launch
from tests.fixtures.api import SECRET, Api
from tests.fixtures.database import scratch_database
from tests.fixtures.live import serve
from tests.fixtures.stack import local_stack
from tests.fixtures.terminal import Cli, Said


async def test_help_comes_without_loading_what_commands_need(cli: Cli) -> None:
    heavy = {"sqlalchemy", "temporalio", "fastapi", "httpx2", "pydantic_settings", "structlog", "jwt", "psutil"}
    program = (
        "import sys; from api.cli.main import main; code = main(['agents', '--help']); "
        f"print(sorted({heavy} & set(sys.modules))); sys.exit(code)"
    )
    said = await _python(cli, program)
    assert said.code == 0
    assert "Start an agent" in said.out
    assert said.out.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["sail"], 2)])
async def test_what_fails_while_python_is_torn_down_changes_neither_answer_nor_exit_code(
    cli: Cli, words: list[str], code: int
) -> None:
    # As threads of Temporal's client do now and then.
    breaks = "import os, sys\nclass Torn:\n    def __del__(self): os.abort()\nkept = Torn()\n"
    program = f"{breaks}from api.cli.main import run; sys.argv[1:] = {words}; run()"
    said = await _python(cli, program)
    assert said.code == code
    assert said.out + said.err


async def test_what_libraries_do_at_exit_is_done(cli: Cli) -> None:
    program = "import atexit; atexit.register(print, 'cleared'); from core.leaving import leave; leave(3)"
    said = await _python(cli, program)
    assert (said.code, said.out) == (3, "cleared\n")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "Missing command"),
        (("sail",), "No such command 'sail'"),
        (("agents", "list", "--limit", "0"), "--limit"),
        (("agents", "exec", "shop"), "COMMAND"),
        (("up", "--runtime", "steam"), "steam"),
        (("token", "a\x01b"), "control characters"),
        (("worker",), "BERTH_DATABASE__URL is not set"),
        (("api",), "BERTH_DATABASE__URL is not set"),
        (("watch",), "BERTH_DATABASE__URL is not set"),
        (("migrate",), "BERTH_DATABASE__URL is not set"),
    ],
)
async def test_wrong_use_is_one_line_and_exit_code_2(cli: Cli, argv: tuple[str, ...], words: str) -> None:
    said = await cli(*argv)
    assert (said.code, said.out) == (2, "")
    assert words in said.line


async def test_runtime_that_this_version_lacks_is_named_with_those_it_has(cli: Cli) -> None:
    said = await cli.given(POOL__RUNTIME="steam")("up")
    assert (said.code, said.out) == (2, "")
    assert "this version has no runtime 'steam'; it has kubernetes, memory, process" in said.line


async def test_debug_anywhere_shows_where_an_error_arose(cli: Cli) -> None:
    said = await cli("worker", "--debug")
    assert said.code == 2
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1].startswith("berth: BERTH_DATABASE__URL is not set")


async def test_config_shows_what_is_in_force_and_no_secret(cli: Cli) -> None:
    (cli.home / "berth.yaml").write_text(
        "pool: {capacity: 7, runtime: memory}\npools: {default: {max_starting: 2}}\n"
        "llm: {base_url: http://m, api_key: k3y}\n"
        "templates: {shop: {environment: {SHOP_TOKEN: t0ken, SHOP_NAME: tea}}}\n"
    )
    berth = cli.given(AUTH__SECRET=SECRET, DATABASE__URL="postgresql://u:pa55@db/x", POOL__CAPACITY="8")
    said = await berth("config")
    assert said.code == 0, said.err
    assert re.search(r"^pool:\n  runtime: memory\n  capacity: 8$", said.out, re.MULTILINE)
    assert re.search(
        r"^pools:\n  default:\n    runtime: memory\n(    .*\n)+    max_starting: 2$", said.out, re.MULTILINE
    )
    assert not any(secret in said.out for secret in (SECRET, "pa55", "k3y", "t0ken"))
    assert said.out.count("'**********'") == 4
    assert "SHOP_NAME: tea" in said.out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"POOL__CAPACITY": "many"}, "BERTH_POOL__CAPACITY: Input should be a valid integer"),
        ({"AUTH__SECRET": "changeme"}, "AUTH__SECRET is a sample"),
        ({"POOL_CAPACITY": "3"}, "BERTH_POOL_CAPACITY is no setting; did you mean BERTH_POOL__CAPACITY?"),
        ({"POOL__SIZE": "3"}, "BERTH_POOL__SIZE: there is no such setting"),
        ({"POOLS": "[1"}, "pools"),
        ({"CONFIG": "/nowhere/berth.yaml"}, "/nowhere/berth.yaml, which is no file"),
    ],
)
async def test_unsound_settings_are_one_line_and_exit_code_2(cli: Cli, settings: dict[str, str], words: str) -> None:
    said = await cli.given(**settings)("config")
    assert (said.code, said.out) == (2, "")
    assert words in said.line


@pytest.mark.parametrize("part", ["worker", "up"])
async def test_webhooks_that_nothing_signs_are_not_begun_with(cli: Cli, part: str) -> None:
    given = {"DATABASE__URL": "postgresql://x@127.0.0.1:1/x", "TEMPORAL__ADDRESS": "127.0.0.1:1"}
    said = await cli.given(**given, WEBHOOK__URL="https://shop.example/hooks")(part)
    assert (said.code, said.line.startswith("berth: WEBHOOK__URL needs WEBHOOK__SECRETS; make one:")) == (2, True)


async def test_settings_file_that_is_no_yaml_names_its_line(cli: Cli) -> None:
    (cli.home / "berth.yaml").write_text("pool:\n  capacity: [1\nqueue: 3\n")
    said = await cli("config")
    assert said.code == 2
    assert "berth.yaml is not YAML (line " in said.line


async def test_token_makes_a_user_and_later_ones_change_only_what_is_given(api: Api, cli: Cli) -> None:
    berth = cli.given(DATABASE__URL=_url(api), AUTH__SECRET=SECRET)
    first = await berth("token", "new", "--tier", "premium", "--project", "one", "--project", "two")
    assert (first.code, first.err, first.out.count("\n")) == (0, "", 1)
    again = await berth("token", "new", "--project", "three", "--admin")
    async with serve(api.app) as url, httpx2.AsyncClient(base_url=url) as http:
        me = (await http.get("/api/me", headers={"Authorization": f"Bearer {first.out.strip()}"})).json()
        assert (me["userId"], me["tier"], me["role"]) == ("new", "premium", "user")
        assert me["projects"] == ["one", "three", "two"]
        refused = await http.get("/api/admin/agents", headers={"Authorization": f"Bearer {first.out.strip()}"})
        allowed = await http.get("/api/admin/agents", headers={"Authorization": f"Bearer {again.out.strip()}"})
        assert (refused.status_code, allowed.status_code) == (403, 200)


async def test_under_an_issuer_token_makes_the_user_and_prints_none(api: Api, cli: Cli) -> None:
    berth = cli.given(DATABASE__URL=_url(api), AUTH__JWKS_URL="https://issuer.example/keys", AUTH__AUDIENCE="berth")
    said = await berth("token", "guest", "--project", "lobby")
    assert (said.code, said.out) == (0, "")
    assert "https://issuer.example/keys" in said.line
    assert await api.sql("SELECT 1 AS known FROM memberships WHERE user_id = 'guest' AND project_id = 'lobby'")


async def test_token_without_a_database_says_how_to_get_one(cli: Cli, empty_database: str) -> None:
    none = await cli("token", "someone")
    assert none.code == 4
    assert "berth up" in none.line
    away = await cli.given(DATABASE__URL="postgresql://u:p@127.0.0.1:9/x", AUTH__SECRET=SECRET)("token", "someone")
    assert away.code == 4
    assert "does not answer" in away.line
    empty = cli.given(DATABASE__URL=empty_database, AUTH__SECRET=SECRET)
    assert "berth migrate" in (await empty("token", "someone")).line
    for _ in range(2):
        assert (await empty("migrate")).code == 0
    assert (await empty("token", "someone")).code == 0


async def test_api_on_a_taken_port_says_so(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        berth = cli.given(
            API__PORT=port, AUTH__SECRET=SECRET, DATABASE__URL="postgresql://u:p@127.0.0.1:9/x", TEMPORAL__ADDRESS="t:1"
        )
        said = await berth("api")
    assert (said.code, said.out) == (1, "")
    assert port in said.line
    assert "BERTH_API__PORT" in said.line


async def test_doctor_names_what_is_missing_and_what_mends_it(cli: Cli, tmp_path: Path) -> None:
    told = await cli("doctor", "--runtime", "memory", "--json")
    assert told.code == 0
    assert {check["needed_by"] for check in json.loads(told.out)} >= {"Berth", "the local stack", "runtime process"}
    bare = Cli(cli.home, {"PATH": str(tmp_path), "CHROMIUM": "/nowhere", "BERTH_HOST__AGENT_PYTHON": "/nowhere"})
    said = await bare("doctor", "--runtime", "process")
    assert said.code == 1
    assert "lacks  Chromium: CHROMIUM names /nowhere" in said.out
    assert "-> apt-get install tigervnc-standalone-server" in said.out
    assert "-> make setup, or set BERTH_HOST__AGENT_PYTHON" in said.out
    assert "cannot run here yet" in said.line


async def test_doctor_sees_a_closed_data_folder_and_an_absent_database(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    berth = cli.given(DATA_DIR=str(tmp_path / "file" / "data"), DATABASE__URL="postgresql://u:p@127.0.0.1:9/x")
    said = await berth("doctor", "--runtime", "memory")
    assert said.code == 1
    assert "lacks  data folder" in said.out
    assert "lacks  database: nobody answers at 127.0.0.1:9" in said.out


@pytest.mark.timeout(180)
async def test_local_stack_is_found_used_watched_and_stopped_from_the_command_line(tmp_path: Path) -> None:
    async with local_stack(tmp_path / "data", "memory") as stack:
        token = await stack.berth("token", "someone", "--project", "shop")
        stack.environment["BERTH_TOKEN"] = token
        agent = json.loads(await stack.berth("agents", "start", "shop", "--template", "default", "--json"))["agent"]
        shown = await stack.berth("agents", "start", "shop", "--wait")
        assert "running" in shown
        assert agent["agentId"] in await stack.berth("agents", "list")
        kinds = [line.split()[1] for line in (await stack.berth("agents", "events", "shop")).splitlines()]
        assert kinds == [f"agent.{kind}" for kind in ("requested", "queued", "admitted", "starting", "ready")]
        assert "terminated" in await stack.berth("agents", "stop", "shop", "--wait")

        second = Cli(tmp_path, {"BERTH_DATA_DIR": str(tmp_path / "data")})
        held = await second("up", "--port", "0")
        assert held.code == 1
        assert f"in use by process {stack.process.pid}" in held.line
        assert (await second("host")).code == 1

        children = {pid: launch.start_time(pid) for pid in stack.about["pids"].values()}
        assert set(stack.about["pids"]) == {"postgres", "temporal", "worker", "api", "host"}
        stack.process.send_signal(signal.SIGTERM)
        assert await stack.process.wait() == 0
        assert not any(launch.is_same_process(pid, began or 0) for pid, began in children.items())
        assert not (tmp_path / "data" / "stack.json").exists()


@pytest.mark.timeout(180)
async def test_runtime_that_was_typed_goes_before_that_of_the_file_and_a_person_is_told_of_the_start(cli: Cli) -> None:
    (cli.home / "berth.yaml").write_text("pools: {default: {runtime: steam, max_starting: 2}}\n")
    assert "this version has no runtime 'steam'" in (await cli("up", "--port", "0")).line
    terminal, its = os.openpty()
    try:
        async with cli.running("up", "--runtime", "memory", "--port", "0", stderr=its) as up, asyncio.timeout(120):
            assert up.stdout is not None
            assert (await up.stdout.readline()).startswith(b"ready  http://127.0.0.1:")
            assert json.loads((cli.home / ".berth" / "stack.json").read_text())["runtime"] == "memory"
            assert os.read(terminal, 1000).decode().splitlines()[0] == f"starting; its data is in {cli.home / '.berth'}"
            up.send_signal(signal.SIGINT)
            await up.communicate()
    finally:
        os.close(terminal)
        os.close(its)
    assert up.returncode == 0


@pytest.mark.timeout(180)
async def test_parts_that_are_told_to_end_do_so_in_order_with_exit_code_0(cli: Cli) -> None:
    async with cli.running("up", "--runtime", "memory", "--port", "0") as up, asyncio.timeout(120):
        assert up.stdout is not None
        assert up.stderr is not None
        assert (await up.stdout.readline()).startswith(b"ready  http://127.0.0.1:")
        pids = json.loads((cli.home / ".berth" / "stack.json").read_text())["pids"]
        for part in ("api", "worker", "host"):
            os.kill(pids[part], signal.SIGTERM)
            assert (await up.stderr.readline()).decode().startswith(f"{part} ended (exit code 0); starting it again")
            assert (await up.stderr.readline()).decode() == f"{part} is back\n"
        up.send_signal(signal.SIGINT)
        assert (await up.communicate())[1] == b"stopping\n"
    assert up.returncode == 0


@pytest_asyncio.fixture
async def empty_database(postgres_server: str) -> AsyncIterator[str]:
    async with scratch_database(postgres_server) as url:
        yield url


def _url(api: Api) -> str:
    return api.db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


async def _python(cli: Cli, program: str) -> Said:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=cli.home, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return Said(process.returncode or 0, out.decode(), err.decode())
