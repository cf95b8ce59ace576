"""A process that was begun and cannot be held: the next try must be the only one on its profile."""

import asyncio
import errno
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core import launch
from core.runtime.attempt import Attempt
from core.runtime.attempts import Record


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    record = Record(
        agent_id="ag-1", attempt=1, user_id="ann", project_id="shop", token_hash="", created_at=datetime.now(UTC),
        work=tmp_path, group="g", uid=None,
    )  # fmt: skip
    return Attempt(record=record, owner="ann-shop")


def begun() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"])


@pytest.mark.parametrize("where", ["handle", "start time", "end"])
async def test_process_that_cannot_be_held_for_want_of_files_is_not_left_alive(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    of: dict[str, tuple[object, str]] = {
        "handle": (os, "pidfd_open"),
        "start time": (launch, "start_time"),
        "end": (asyncio.get_running_loop(), "add_reader"),
    }
    monkeypatch.setattr(*of[where], none_left)
    before = len(os.listdir("/proc/self/fd"))
    process = begun()
    with pytest.raises(OSError, match="Too many open files"):
        attempt.hold(process, lambda: None)
    assert process.poll() is not None
    assert attempt.pidfd is None
    assert len(os.listdir("/proc/self/fd")) == before


async def test_process_that_is_held_is_ended_by_what_it_is_held_by_and_its_end_is_told(attempt: Attempt) -> None:
    process, over = begun(), asyncio.Event()
    attempt.hold(process, over.set)
    attempt.kill()
    await asyncio.wait_for(over.wait(), 30)
    assert attempt.pidfd is not None
    asyncio.get_running_loop().remove_reader(attempt.pidfd)
    os.close(attempt.pidfd)
    assert process.wait() < 0
    assert attempt.record.pid == process.pid
