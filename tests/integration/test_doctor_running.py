"""`berth doctor --running`: what it says of an installation that is well, and of one that is not."""

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from api.cli.stranded import warn
from core.db.engine import Db
from tests.fixtures.stack import LocalStack, eventually, local_stack
from tests.fixtures.terminal import Cli

# Several times a command line and a stack, each of which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture
async def well(tmp_path: Path) -> AsyncIterator[LocalStack]:
    async with local_stack(
        tmp_path / "data", TIMINGS__REAP_SECONDS="2", TIMINGS__PRESSURE_SECONDS="2", TIMINGS__SNAPSHOT_SECONDS="0.5"
    ) as stack:
        yield stack


async def asked(stack: LocalStack) -> dict[str, dict[str, Any]]:
    """What it says of each thing."""
    checks = json.loads(await stack.berth("doctor", "--running", "--json", code=None))
    return {check["what"]: check for check in checks}


async def problems(stack: LocalStack) -> dict[str, str]:
    return {
        what: f"{check['found']} -> {check['mend']}"
        for what, check in (await asked(stack)).items()
        if check["verdict"] == "problem"
    }


async def test_installation_that_is_well_is_told_line_by_line(well: LocalStack) -> None:
    ann = await well.user("ann", "shop")
    await ann.until(await ann.start("shop"), "running")
    said = await well.berth("doctor", "--running")
    lines = said.splitlines()
    assert lines[0] == "this installation:"
    assert [line.split()[0] for line in lines[1:]] == ["ok"] * (len(lines) - 1)
    for told in (
        f"API: ready at {well.url}",
        "database: answers",
        f"Temporal: answers at {well.about['temporal']}",
        "task queue berth: 1 ask for work",
        "task queue runtime/default: 1 ask for work",
        "schedule berth-reaper: ran",
        "schedule berth-pressure: ran",
        "look at cluster local: ",
        "runtimes of living agents: a worker has each",
        "agents without a workflow: none of 1",
    ):
        assert told in said


async def test_worker_that_is_gone_is_told_and_what_to_do(well: LocalStack) -> None:
    worker = well.pid("worker")
    # The stack would begin another one.
    os.kill(well.process.pid, signal.SIGSTOP)
    try:
        os.kill(worker, signal.SIGKILL)
        told: dict[str, str] = {}

        async def noticed() -> bool:
            told.update(await problems(well))
            return {"task queue berth", "schedule berth-reaper"} <= told.keys()

        await eventually(noticed, "the doctor to find that nobody works")
    finally:
        os.kill(well.process.pid, signal.SIGCONT)
    assert told["task queue berth"].endswith("-> start a worker, or look at its log: berth worker")
    assert "ran last" in told["schedule berth-reaper"]

    async def mended() -> bool:
        return not await problems(well)

    await eventually(mended, "the doctor to find it well again")


async def test_release_that_nobody_made_the_current_one_is_told(tmp_path: Path) -> None:
    async with local_stack(tmp_path / "data", WORKER__BUILD_ID="7-0") as stack:

        async def noticed() -> bool:
            return "release" in await asked(stack)

        await eventually(noticed, "the worker's release to be known")
        told = (await problems(stack))["release"]
        assert told == "none of 7-0 is the current one: no start is taken on -> berth releases use 7-0"
        await stack.berth("releases", "use", "7-0")
        assert (await asked(stack))["release"]["verdict"] == "ok"


async def test_schedule_that_is_paused_or_gone_and_a_look_that_is_old_are_told(well: LocalStack) -> None:
    await well.temporal("schedule", "toggle", "--pause", "-s", "berth-reaper", "--reason", "a test")
    await well.temporal("schedule", "delete", "-s", "berth-pressure")
    os.kill(well.pid("worker"), signal.SIGSTOP)
    try:
        async with Db.open(str(well.about["database"]), application="test") as db, db.transaction() as session:
            await session.execute(text("UPDATE clusters SET measured_at = now() - interval '2 minutes'"))
        told = await problems(well)
    finally:
        os.kill(well.pid("worker"), signal.SIGCONT)
    assert told["schedule berth-reaper"].startswith("it is paused -> temporal schedule toggle --unpause")
    assert told["schedule berth-pressure"].startswith("there is none")
    assert " s old -> nobody is let in there" in told["look at cluster local"]


async def test_row_that_no_workflow_owns_is_counted(well: LocalStack) -> None:
    ann = await well.user("ann", "shop")
    agent_id = await ann.start("shop")
    await ann.until(agent_id, "running")
    await well.temporal("schedule", "toggle", "--pause", "-s", "berth-reaper", "--reason", "a test")
    await well.temporal("workflow", "terminate", "-w", "agent/ann/shop", "--reason", "a test")
    told = await problems(well)
    assert told["agents without a workflow"].startswith("1 of 1")
    await well.temporal("schedule", "toggle", "--unpause", "-s", "berth-reaper", "--reason", "the test is over")


async def test_agents_whose_runtime_the_stack_was_not_started_with_are_counted(
    well: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    ann = await well.user("ann", "shop")
    await ann.until(await ann.start("shop"), "running")
    url = str(well.about["database"])
    async with Db.open(url, application="test") as db:
        async with db.single() as session:
            await session.execute(text("UPDATE agents SET runtime = 'process'"))
        told = await problems(well)
        await warn(url, well.settings)
        async with db.single() as session:
            await session.execute(text("UPDATE agents SET runtime = 'memory'"))
    words = "1 agent of runtime process, which no worker here has"
    mend = "start with that runtime again, or: berth agents terminate AGENT --abandon"
    assert told == {"runtimes of living agents": f"{words} -> {mend}"}
    assert capsys.readouterr().err == f"berth: {words}: {mend}\n"
    await warn(url, well.settings)
    await warn("postgresql://nobody@127.0.0.1:9/none", well.settings)
    assert capsys.readouterr().err == ""


async def test_nothing_that_answers_is_told_part_by_part(cli: Cli) -> None:
    away = cli.given(
        API_URL="http://127.0.0.1:9",
        DATABASE__URL="postgresql://nobody@127.0.0.1:9/none",
        TEMPORAL__ADDRESS="127.0.0.1:9",
        DATA_DIR=str(cli.home / "data"),
    )
    said = await away("doctor", "--running")
    assert said.code == 1
    assert "API: none answers at http://127.0.0.1:9" in said.out
    assert "database: it cannot be asked" in said.out
    assert "Temporal: none answers at 127.0.0.1:9" in said.out
    assert said.err == "berth: 3 of 3 are a problem\n"


async def test_runtime_is_no_question_to_what_runs(cli: Cli) -> None:
    said = await cli("doctor", "--running", "--runtime", "memory")
    assert said.code == 2
    assert "--running about what runs" in said.line
