"""What happens to tests whose time is up."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.capabilities import ROOT

SUITE = '''
"""Waits for what never comes, between two that pass."""
import asyncio
import pytest

@pytest.fixture
async def house():
    yield
    await asyncio.sleep(0)
    print("the house was tidied up")

async def test_before(): pass

async def test_waits_for_ever(house):
    await asyncio.Event().wait()

def test_blocks_for_ever():
    import threading
    threading.Event().wait()

async def test_after(): pass
'''
SWALLOWS = SUITE.replace(
    "    await asyncio.Event().wait()",
    """
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("not now")
""",
)


def run(folder: Path, suite: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_waits.py").write_text(suite)
    options = "asyncio_mode = auto\ntimeout = 2\nunwinding_seconds = 2\n"
    (folder / "pytest.ini").write_text(f"[pytest]\n{options}")
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    argv = [sys.executable, "-m", "pytest", "-p", "tests.patience", "--color=no", *arguments, "test_waits.py"]
    environment |= {"PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def cached(folder: Path, name: str) -> object:
    return json.loads((folder / ".pytest_cache" / "v" / name).read_text())


def test_one_that_waits_too_long_fails_alone_and_what_it_used_is_taken_down(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE)
    assert done.returncode == 1
    assert "2 failed, 2 passed" in done.stdout
    assert "FAILED test_waits.py::test_waits_for_ever - TimeoutError" in done.stdout
    assert "FAILED test_waits.py::test_blocks_for_ever - Failed: Timeout" in done.stdout
    assert "the house was tidied up" in done.stdout


def test_one_that_does_not_end_when_cancelled_ends_its_process_and_what_is_left_is_noted(tmp_path: Path) -> None:
    done = run(tmp_path, SWALLOWS, "--deselect", "test_waits.py::test_blocks_for_ever")
    assert done.returncode == 1
    assert "test_waits.py::test_waits_for_ever did not end when its time was up" in done.stdout
    assert cached(tmp_path, "cache/lastfailed") == {"test_waits.py::test_waits_for_ever": True}
    assert cached(tmp_path, "berth/left") == ["test_waits.py::test_after"]
