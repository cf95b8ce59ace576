"""What becomes of a command whose reader has seen enough, or whose person has: pipes that end, and Ctrl-C."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE

import pytest

from tests.fixtures.terminal import ROOT, SECONDS, Cli, Desk


@pytest.mark.parametrize(
    "words",
    [
        ("agents", "list"),
        ("agents", "list", "--json"),
        ("agents", "events", "shop"),
        ("agents", "logs", "shop"),
        ("-h",),
    ],
    ids=" ".join,
)
async def test_output_that_nobody_reads_is_no_failure(desk: Desk, words: tuple[str, ...]) -> None:
    agent_id = await desk.api.running()
    desk.api.runtime.lines[agent_id] = [b"one\n"]
    reader, writer = os.pipe()
    os.close(reader)
    async with desk.as_user("owner").running(*words, stdout=writer) as process, asyncio.timeout(SECONDS):
        os.close(writer)
        _, said = await process.communicate()
    assert (process.returncode, said.decode()) == (0, "")


async def test_reader_that_leaves_in_the_middle_of_a_log_ends_the_command_well(desk: Desk) -> None:
    agent_id = await desk.api.running()
    # More than a pipe holds.
    desk.api.runtime.lines[agent_id] = [b"%d of many\n" % number for number in range(20_000)]
    reader, writer = os.pipe()
    head = await asyncio.create_subprocess_exec("head", "-n", "1", stdin=reader, stdout=PIPE)
    os.close(reader)
    async with (
        desk.as_user("owner").running("agents", "logs", "shop", stdout=writer) as process,
        asyncio.timeout(SECONDS),
    ):
        os.close(writer)
        out, _ = await head.communicate()
        _, said = await process.communicate()
    assert (out, process.returncode, said.decode()) == (b"0 of many\n", 0, "")


async def test_pipe_that_broke_elsewhere_is_a_failure_still(cli: Cli) -> None:
    program = (
        "import sys; from api.cli.main import app, main\n"
        "def breaks() -> None: raise BrokenPipeError(32, 'of another program')\n"
        "app.command()(breaks); sys.exit(main(['breaks']))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=cli.home, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), SECONDS)
    assert (process.returncode, "of another program" in said.decode()) == (1, True)


async def test_command_that_is_interrupted_exits_as_shells_and_its_help_have_it(desk: Desk) -> None:
    assert "130 interrupted" in (await desk.cli("--help")).out
    # The agent waits in line, so there is something to be interrupted in.
    await desk.api.lives.look(0)
    async with desk.as_user("owner").running("agents", "start", "shop", "--wait") as process, asyncio.timeout(SECONDS):
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
    assert (process.returncode, "Traceback" in said.decode()) == (130, False)
