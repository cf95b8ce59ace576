"""A process that was begun and cannot be held: the next try must be the only one on its profile."""

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


@pytest.mark.parametrize("where", [(os, "pidfd_open"), (launch, "start_time")], ids=["handle", "start time"])
def test_process_that_cannot_be_held_for_want_of_files_is_not_left_alive(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str]
) -> None:
    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(*where, none_left)
    process = subprocess.Popen(["sleep", "60"])
    with pytest.raises(OSError, match="Too many open files"):
        attempt.hold(process)
    assert process.poll() is not None
    assert attempt.pidfd is None


def test_process_that_is_held_is_ended_by_what_it_is_held_by(attempt: Attempt) -> None:
    process = subprocess.Popen(["sleep", "60"])
    pidfd = attempt.hold(process)
    attempt.kill()
    assert process.wait() < 0
    assert attempt.record.pid == process.pid
    os.close(pidfd)
