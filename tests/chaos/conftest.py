"""The reports of the kill suite, at the end of the run, and which share of it is run."""

import pytest

from tests.chaos import failures as told
from tests.chaos.failures import Failures
from tests.chaos.report import FILE, Report
from tests.chaos.shares import SHARE, of_share

_REPORT = pytest.StashKey[Report]()
_FAILURES = pytest.StashKey[Failures]()


@pytest.fixture(scope="session")
def chaos_report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash.setdefault(_REPORT, Report())


@pytest.fixture(scope="session")
def failures(pytestconfig: pytest.Config) -> Failures:
    return pytestconfig.stash.setdefault(_FAILURES, Failures())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    try:
        mine = of_share([(item, _group(item)) for item in items], SHARE)
    except ValueError as error:
        raise pytest.UsageError(f"CHAOS_SHARE: {error}") from None
    others = [item for item in items if item not in mine]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item in mine]


def _group(item: pytest.Item) -> str:
    """What it has in common with others: the cluster, the stack of one victim, or that of its file."""
    if "cluster" in getattr(item, "fixturenames", ()):
        return "cluster"
    callspec = getattr(item, "callspec", None)
    return f"{item.path.name} {callspec.params.get('harmed', '') if callspec else ''}"


def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[object], report: pytest.TestReport) -> None:
    # A run takes hours: what failed is in the file at once.
    if call.excinfo is not None:
        said = node.config.stash.setdefault(_REPORT, Report())
        said.fail(node.name, str(call.excinfo.value) or call.excinfo.typename)


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
