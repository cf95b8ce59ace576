"""`make demo` as a newcomer sees it: one whole life, told step by step, and nothing left running."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.fixtures.terminal import Cli
from tests.integration.waiting import until

STEPS = (
    "The local stack, a shop and a scripted model",
    "Two users, each with a project",
    "first asks for an agent",
    "first's agent is usable",
    "It opens the demo shop",
    "It fills in the order form and sends it",
    "It makes a screenshot",
    "It makes a pdf",
    "second asks for an agent, but there is room for one only: queued at place 1",
    "first's agent is warned and stopped",
    "second is admitted",
    "second's agent is usable",
)
STEP = re.compile(r" +(\d+\.\d) s +(\d+\.\d) s  \+ (.*)")


@pytest.mark.needs("agent")
@pytest.mark.timeout(400)
async def test_demo_plays_a_whole_life_also_after_one_that_was_killed(cli: Cli) -> None:
    folder = cli.home / "demo"
    async with cli.running("demo", "--exit", "--any-ports", "--data-dir", str(folder)) as first:
        assert first.stdout is not None
        async with asyncio.timeout(150):
            while b"It opens the demo shop" not in (heard := await first.stdout.readline()):
                assert heard, (await first.communicate())[1].decode()
        first.kill()
        await first.communicate()
    await until(lambda: not _running_in(folder))

    async with cli.running("demo", "--any-ports", "--data-dir", str(folder)) as second, asyncio.timeout(200):
        assert second.stdout is not None
        said: list[str] = []
        while not said or not said[-1].startswith("Ctrl-C"):
            line = (await second.stdout.readline()).decode()
            assert line, "".join(said)
            said.append(line)
        second.terminate()
        await second.communicate()
    assert second.returncode == 0
    told = [match for line in said if (match := STEP.match(line))]
    titles = [match[3] for match in told]
    assert all(any(title.startswith(step) for title in titles) for step in STEPS), "".join(said)
    elapsed = [float(match[1]) for match in told]
    assert elapsed == sorted(elapsed)
    # The countdown is told while the other one waits.
    countdown = [line for line in said if "warning: stops in" in line]
    assert len(countdown) >= 4
    assert all("second waits at place 1" in line for line in countdown)
    assert (folder / "order.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (folder / "order.pdf").read_bytes().startswith(b"%PDF-")
    text = "".join(said)
    assert re.search(r"^Dashboard, as second +http://127\.0\.0\.1:\d+/#token=ey\S+$", text, re.MULTILINE)
    assert re.search(r"^Temporal +http://127\.0\.0\.1:\d+$", text, re.MULTILINE)
    assert re.search(r"^API +http://127\.0\.0\.1:\d+/docs$", text, re.MULTILINE)
    await until(lambda: not _running_in(folder))


@pytest.mark.needs("agent")
@pytest.mark.timeout(200)
async def test_demo_that_cannot_go_on_says_which_step_and_why_and_leaves_nothing(cli: Cli) -> None:
    folder = cli.home / "demo"
    # An agent that ends as soon as it begins.
    python = cli.home / "python"
    python.write_text("#!/bin/sh\necho the agent is broken\nexit 78\n")
    python.chmod(0o755)
    cli.home.chmod(0o755)
    (cli.home / "lib" / "python3.0" / "site-packages" / "browser_use").mkdir(parents=True)
    (cli.home / "bin").mkdir()
    python = python.rename(cli.home / "bin" / "python")
    said = await cli.given(HOST__AGENT_PYTHON=str(python))("demo", "--exit", "--any-ports", "--data-dir", str(folder))
    assert said.code == 1
    assert "! first's agent is usable: the agent is " in said.out
    assert "the agent is broken" in said.out
    await until(lambda: not _running_in(folder))


async def test_demo_says_before_it_begins_what_the_machine_lacks(cli: Cli) -> None:
    cli.environment["CHROMIUM"] = "/nowhere/chromium"
    said = await cli("demo", "--exit")
    assert (said.code, said.out) == (1, "")
    assert "CHROMIUM names /nowhere/chromium" in said.line
    assert not (cli.home / ".berth").exists()


def _running_in(folder: Path) -> list[str]:
    """Command lines of processes that belong to the demo in `folder`: they name it, or were started for it."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(words[:200].decode(errors="replace"))
    return found
