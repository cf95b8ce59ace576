"""What happens to tests that a machine cannot run: named with reason, and refused by CI unless listed."""

import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

from tests.cannot_run import Inability
from tests.capabilities import PROBES, ROOT

SUITE = '''
"""Three tests: one runs, one lacks something, one is skipped by hand."""
import pytest
from tests import capabilities
capabilities.PROBES["moonlight"] = lambda: "it is day"

def test_runs(): pass

@pytest.fixture(scope="session")
def telescope(): raise AssertionError("made although nobody can look through it")

@pytest.mark.needs("moonlight")
def test_needs_moonlight(telescope): pass
'''
BY_HAND = '\ndef test_skipped_by_hand(): pytest.skip("not today")\n'
LISTED = """
[[cannot_run]]
test = "tests/test_night.py::test_needs_moonlight"
capability = "moonlight"
reason = "CI runs at noon"
"""


def run(folder: Path, suite: str, listed: str = "", *, ci: bool) -> subprocess.CompletedProcess[str]:
    tests = folder / "tests"
    tests.mkdir()
    (tests / "test_night.py").write_text(suite)
    (tests / "cannot_run.toml").write_text(listed)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = needs\n")
    environment = {key: value for key, value in os.environ.items() if key not in {"CI", "PYTEST_ADDOPTS"}}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({"CI": "true"} if ci else {})
    argv = [sys.executable, "-m", "pytest", "-p", "tests.cannot_run", "-p", "no:cacheprovider", "--color=no", "tests"]
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_a_test_that_cannot_run_is_left_out_and_named_with_its_reason(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE, ci=False)
    assert done.returncode == 0, done.stdout
    assert "test_needs_moonlight  [moonlight]  it is day" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout


def test_ci_fails_on_a_test_that_cannot_run_and_is_not_listed(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE, ci=True)
    assert done.returncode == 1
    assert "not listed in tests/cannot_run.toml" in done.stdout


def test_ci_accepts_a_listed_test_that_cannot_run(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE, LISTED, ci=True)
    assert done.returncode == 0, done.stdout


def test_ci_fails_on_a_listed_test_that_lacks_something_else(tmp_path: Path) -> None:
    assert run(tmp_path, SUITE, LISTED.replace('"moonlight"', '"root"'), ci=True).returncode == 1


def test_ci_fails_on_a_skip_by_hand_but_a_person_only_reads_it(tmp_path: Path) -> None:
    (tmp_path / "ci").mkdir()
    assert run(tmp_path / "ci", SUITE + BY_HAND, LISTED, ci=True).returncode == 1
    (tmp_path / "person").mkdir()
    done = run(tmp_path / "person", SUITE + BY_HAND, LISTED, ci=False)
    assert done.returncode == 0
    assert "test_skipped_by_hand  [none]  not today" in done.stdout


def test_ci_fails_on_a_module_that_skips_itself(tmp_path: Path) -> None:
    suite = SUITE + '\npytest.skip("the whole of it", allow_module_level=True)\n'
    assert run(tmp_path, suite, LISTED, ci=True).returncode not in {0, 5}


def test_an_unknown_capability_is_an_error_not_a_skip(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE.replace('needs("moonlight")', 'needs("starlight")'), ci=False)
    assert done.returncode != 0
    assert "starlight" in done.stdout + done.stderr


def test_every_listed_inability_names_a_test_and_a_capability_that_exist() -> None:
    entries = tomllib.loads((ROOT / "tests" / "cannot_run.toml").read_text()).get("cannot_run", [])
    listed = [Inability.model_validate(entry) for entry in entries]
    for entry in listed:
        path, *names = entry.test.split("::")
        assert (ROOT / path).is_file(), entry.test
        assert all(name in (ROOT / path).read_text() for name in names), entry.test
        assert entry.capability in PROBES, entry.test
    assert [test for test, times in Counter(entry.test for entry in listed).items() if times > 1] == []
