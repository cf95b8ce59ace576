"""An agent's log on the command line: as it comes, once, and whole or not to be taken for it."""

import asyncio
from dataclasses import replace

import pytest

from api.cli.logs import SILENT_SECONDS
from api.services import logs
from core.errors import RuntimeRetryable
from tests.fixtures.terminal import Desk


async def test_logs_are_printed_as_they_come(desk: Desk) -> None:
    agent_id = await desk.api.running()
    desk.api.runtime.lines[agent_id] = [b"one\n", "zwei \u00e4\n".encode()]
    assert (await desk.as_user("owner")("agents", "logs", "shop")).out == "one\nzwei \u00e4\n"
    async with desk.as_user("owner").running("agents", "logs", "shop", "--follow") as process:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"one\n"
        await asyncio.wait_for(desk.api.runtime.waiting.wait(), 20)
        await desk.api.lives.end(agent_id)
        desk.api.runtime.more.set()
        out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert out.decode().splitlines()[-1] == "and more"


async def test_followed_log_goes_on_until_the_agent_ends_and_says_nothing_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.services.logs._FOLLOW_SECONDS", 0.2)
    agent_id = await desk.api.running()
    lines = desk.api.runtime.lines[agent_id] = [b"one\n"]
    async with desk.as_user("owner").running("agents", "logs", "shop", "--follow") as process:
        assert process.stdout is not None
        for number in range(3):
            assert await asyncio.wait_for(process.stdout.readline(), 20) == lines[number]
            lines.append(b"line %d\n" % number)
        await desk.api.lives.end(agent_id)
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out, err) == (0, b"line 2\n", b"")


async def test_followed_log_of_another_attempt_is_printed_from_its_start(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.services.logs._FOLLOW_SECONDS", 0.2)
    agent_id = await desk.api.running()
    desk.api.runtime.lines[agent_id] = [b"attempt 1\n", b"and what it did\n"]
    async with desk.as_user("owner").running("agents", "logs", "shop", "--follow") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in desk.api.runtime.lines[agent_id]:
            assert await asyncio.wait_for(process.stdout.readline(), 20) == line
        desk.api.runtime.lines[agent_id] = [b"attempt 2\n"]
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"attempt 2\n"
        assert b"the log is not the one of before" in await process.stderr.readline()


@pytest.mark.parametrize("follow", [(), ("--follow",)])
async def test_log_that_breaks_midway_does_not_look_whole(desk: Desk, follow: tuple[str, ...]) -> None:
    agent_id = await desk.api.running()
    desk.api.runtime.lines[agent_id] = [b"one\n"]
    desk.api.runtime.breaks = RuntimeRetryable("gone")
    broken = await desk.as_user("owner")("agents", "logs", agent_id, *follow)
    assert (broken.code, broken.out) == (4, "one\n")
    assert "broke off" in broken.line


async def test_log_that_does_not_end_in_time_does_not_look_whole(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.services.logs._WHOLE_SECONDS", 0.2)
    agent_id = await desk.api.running()
    desk.api.runtime.stalls = True
    assert (await desk.as_user("owner")("agents", "logs", agent_id)).code == 4


async def test_followed_log_of_a_server_that_says_nothing_any_more_is_given_up(desk: Desk) -> None:
    agent_id = await desk.api.running()
    impatient = "from api.cli import logs; logs.SILENT_SECONDS = 0.3; from api.cli.main import run; run()"
    ended = await replace(desk.as_user("owner"), program=("-c", impatient))("agents", "logs", agent_id, "--follow")
    assert (ended.code, "did not answer in time" in ended.line) == (4, True)


def test_silence_that_berth_itself_ends_is_waited_for() -> None:
    assert SILENT_SECONDS > logs._FOLLOW_SECONDS
