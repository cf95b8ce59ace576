"""What happens to tests whose time is up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.capabilities import ROOT

BEFORE = """
import asyncio
import contextlib
import pytest

async def test_before(): pass
"""
AFTER = """
async def test_after(): pass
"""
WAITS = """
@pytest.fixture
async def house():
    yield
    await asyncio.sleep(0)
    print("the house was tidied up")

async def test_waits_for_ever(house):
    await asyncio.Event().wait()

def test_blocks_for_ever():
    import threading
    threading.Event().wait()
"""
TAKES_IT_FOR_AN_END = """
async def test_takes_it_for_an_end():
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
"""
SWALLOWS = """
async def test_never_ends():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
"""
NEVER_TIDY = """
@pytest.fixture
async def house():
    yield
    await asyncio.Event().wait()

async def test_never_ends(house):
    raise ValueError("the roof leaks")
"""


def run(folder: Path, *suite: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_waits.py").write_text("".join((BEFORE, *suite, AFTER)))
    options = "asyncio_mode = auto\ntimeout = 2\nunwinding_seconds = 2\n"
    (folder / "pytest.ini").write_text(f"[pytest]\n{options}")
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    argv = [sys.executable, "-m", "pytest", "-p", "tests.patience", "--color=no", "test_waits.py"]
    environment |= {"PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def cached(folder: Path, name: str) -> object:
    return json.loads((folder / ".pytest_cache" / "v" / name).read_text())


def test_one_that_waits_too_long_fails_alone_and_what_it_used_is_taken_down(tmp_path: Path) -> None:
    done = run(tmp_path, WAITS, TAKES_IT_FOR_AN_END)
    assert done.returncode == 1
    assert "3 failed, 2 passed" in done.stdout
    assert "FAILED test_waits.py::test_waits_for_ever - TimeoutError" in done.stdout
    assert "FAILED test_waits.py::test_blocks_for_ever - Failed: Timeout" in done.stdout
    assert "TimeoutError: its time was up, and it took that for something else" in done.stdout
    assert "the house was tidied up" in done.stdout


@pytest.mark.parametrize(("suite", "told"), [(SWALLOWS, "in test_never_ends: await"), (NEVER_TIDY, "the roof leaks")])
def test_what_does_not_end_ends_its_process_and_tells_what_failed_and_notes_what_is_left(
    tmp_path: Path, suite: str, told: str
) -> None:
    done = run(tmp_path, "\ndef test_fails(): assert 'a word' == 'another'\n", suite)
    assert done.returncode == 1
    assert "test_waits.py::test_never_ends did not end when its time was up" in done.stdout
    assert "AssertionError: assert 'a word' == 'another'" in done.stdout
    assert told in done.stdout
    assert cached(tmp_path, "cache/lastfailed") == {
        "test_waits.py::test_fails": True,
        "test_waits.py::test_never_ends": True,
    }
    assert cached(tmp_path, "berth/left") == ["test_waits.py::test_after"]
