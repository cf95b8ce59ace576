"""The report of the kill suite, at the end of the run."""

import pytest

from tests.chaos.report import FILE, Report

_REPORT = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def chaos_report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash.setdefault(_REPORT, Report())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash.get(_REPORT, None)
    if report is not None and report.rows:
        terminalreporter.section(f"killed at boundaries (all of it: {FILE})")
        for line in report.summary():
            terminalreporter.write_line(line)
