"""The data folder of a local stack: its secrets, its logs, what an earlier stack left, and when it cannot be used."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from core.dev.failure import CannotStart
from core.dev.folder import DataFolder
from core.dev.logfile import LogFile
from core.dev.stack import Stack
from core.dev.supervise import Part
from tests.integration.stack_program import GIVEN, here, options_for
from tests.integration.waiting import until


async def test_secrets_are_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    seen: list[str] = []

    def own_parts(env: Mapping[str, str]) -> Sequence[Part]:
        seen.append(env["BERTH_AUTH__SECRET"])
        return []

    for _ in range(2):
        options = options_for(tmp_path / "data", **GIVEN)
        stack = Stack(options, lambda _: None, own_parts)
        try:
            await stack.start()
        finally:
            await stack.stop()
    assert seen[0] == seen[1]
    assert len(seen[0]) == 64
    assert os.stat(tmp_path / "data" / "secrets" / "auth").st_mode & 0o777 == 0o600


async def test_leftover_child_of_a_killed_stack_is_ended_before_the_next_start(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "data")
    with subprocess.Popen(["sleep", "600"]) as leftover:  # noqa: ASYNC220 (forked, not waited for)
        folder.remember({"worker": leftover.pid})
        folder.end_leftovers()
        assert leftover.wait(timeout=5) == -signal.SIGKILL
    folder.close()


@pytest.mark.needs("root", "mount_namespace")
async def test_full_disk_is_one_clear_line_and_nothing_is_half_made(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "small", str(small)]
    subprocess.run(mount, check=True, timeout=10)  # noqa: ASYNC221 (returns at once)
    try:
        stack, _ = here(small / "data")
        with pytest.raises(
            CannotStart, match=r"^\S+ has 1\d MiB of free disk space, 256 MiB are needed\. Free some\.$"
        ):
            await stack.start()
        await stack.stop()
        assert not (small / "data" / "postgres").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=10)  # noqa: ASYNC221 (returns at once)


async def test_data_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    stack, _ = here(tmp_path / "file" / "data")
    with pytest.raises(CannotStart, match=r"file/data cannot be used: Not a directory\. Mend it"):
        await stack.start()
    await stack.stop()


async def test_log_of_a_part_that_prints_without_end_stays_small(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "part.log", limit=100_000)
    pipe = log.open_pipe()
    process = await asyncio.create_subprocess_exec("sh", "-c", "yes | head -c 3000000; echo last words", stdout=pipe)
    os.close(pipe)
    await process.wait()
    await until(lambda: log.last_line() == "last words")
    log.close()
    kept = sum(os.stat(tmp_path / name).st_size for name in os.listdir(tmp_path))
    assert 0 < kept <= 300_000
