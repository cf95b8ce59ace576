"""The reports of the kill suite, at the end of the run."""

import pytest

from tests.chaos import failures as told
from tests.chaos.failures import Failures
from tests.chaos.report import FILE, Report

_REPORT = pytest.StashKey[Report]()
_FAILURES = pytest.StashKey[Failures]()


@pytest.fixture(scope="session")
def chaos_report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash.setdefault(_REPORT, Report())


@pytest.fixture(scope="session")
def failures(pytestconfig: pytest.Config) -> Failures:
    return pytestconfig.stash.setdefault(_FAILURES, Failures())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash.get(_REPORT, None)
    if report is not None and report.rows:
        terminalreporter.section(f"killed at boundaries (all of it: {FILE})")
        for line in report.summary():
            terminalreporter.write_line(line)
    failures = config.stash.get(_FAILURES, None)
    if failures is not None and failures.rows:
        terminalreporter.section(f"what was told of failures (also: {told.FILE})")
        for line in failures.table():
            terminalreporter.write_line(line)
