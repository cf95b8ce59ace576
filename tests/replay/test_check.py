"""A change that running lives would not survive does not pass `make check`, which says what to do instead."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of what is replayed, to do wrong things to."""
    unwanted = shutil.ignore_patterns("__pycache__", "web")
    for folder in ("activities", "core", "tests/replay", "workflows", ".ci"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=unwanted)
    shutil.copy(ROOT / "tests/__init__.py", tmp_path / "tests")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    return tmp_path


def check(house: Path) -> tuple[int, str]:
    done = subprocess.run([".ci/check", "replay"], cwd=house, capture_output=True, text=True, timeout=60)
    return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_workflows_as_they_are_pass(house: Path) -> None:
    code, said = check(house)
    assert code == 0, said
    assert said.startswith("ok replay")


def test_one_more_step_in_a_life_is_refused_with_words_that_tell_what_to_do(house: Path) -> None:
    step = "        deadline = workflow.now() + seconds(course.timings.ready_deadline_seconds)\n"
    change(house / "workflows/passage.py", step, step + "        await workflow.sleep(1)\n")
    code, said = check(house)
    assert code == 1
    assert "make check: replay failed" in said
    assert re.search(r"AgentWorkflow goes another way than \d+ of its recorded histories: .*\bstopped\b", said)
    for word in ("workflow.patched(NAME)", "workflows/options.py", "tests.replay.record", "tests/replay/README.md"):
        assert word in said


def test_the_same_step_behind_a_name_passes(house: Path) -> None:
    step = "        deadline = workflow.now() + seconds(course.timings.ready_deadline_seconds)\n"
    guarded = '        if workflow.patched("one more step"):\n            await workflow.sleep(1)\n'
    change(house / "workflows/passage.py", step, step + guarded)
    code, said = check(house)
    assert code == 0, said


def test_an_argument_that_running_lives_do_not_bring_is_refused(house: Path) -> None:
    field = "    request: StartRequest\n"
    change(house / "workflows/life.py", field, field + "    must_be_there: str\n")
    code, said = check(house)
    assert code == 1
    assert "AgentWorkflow fails in" in said
    assert "What runs while this is rolled out" in said


def test_a_history_that_was_changed_or_taken_away_is_named(house: Path) -> None:
    histories = house / "tests/replay/histories"
    (histories / "rejected.json").unlink()
    told = histories / "stopped.json"
    told.write_text(told.read_text().replace("stop", "halt"))
    code, said = check(house)
    assert code == 1
    assert "histories/rejected.json is gone: a history is only ever added;" in said
    assert "histories/stopped.json was changed" in said
