"""Says which tests this machine cannot run and why; under CI=true only those of cannot_run.toml may stay out."""

import os
import tomllib
from collections.abc import Generator

import pytest
from pydantic import BaseModel, ConfigDict

from tests import capabilities


class Inability(BaseModel):
    """A test (a node id without parameters, a class or a file) that may be left out for want of `capability`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    test: str
    capability: str
    reason: str

    def allows(self, nodeid: str, capability: str) -> bool:
        plain = nodeid.split("[", 1)[0]
        return self.capability == capability and (plain == self.test or plain.startswith(f"{self.test}::"))


class Absence(BaseModel):
    """A test that did not run here; `capability` is "none" for a skip that names none."""

    model_config = ConfigDict(frozen=True)
    test: str
    capability: str
    reason: str


_LISTED = pytest.StashKey[tuple[Inability, ...]]()
_ABSENT = pytest.StashKey[dict[str, Absence]]()
_LACKS = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    listing = config.rootpath / "tests" / "cannot_run.toml"
    entries = tomllib.loads(listing.read_text()).get("cannot_run", []) if listing.is_file() else []
    config.stash[_LISTED] = tuple(Inability.model_validate(entry) for entry in entries)
    config.stash[_ABSENT] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for capability in _needed(item):
            if capability not in capabilities.PROBES:
                raise pytest.UsageError(
                    f"{item.nodeid} needs {capability!r}, which tests/capabilities.py has no probe for"
                )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture is made, so that a test that cannot run starts nothing."""
    for capability in _needed(item):
        if reason := capabilities.missing(capability):
            item.stash[_LACKS] = capability
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _leave_out(item.config, report, item.stash.get(_LACKS, "none"))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _leave_out(collector.config, report, "none")
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    absent = config.stash[_ABSENT].values()
    if not absent:
        return
    terminalreporter.section("cannot run here")
    for each in absent:
        terminalreporter.write_line(f"{each.test}  [{each.capability}]  {each.reason}")
    terminalreporter.write_line(f"{len(absent)} not run")


def _needed(item: pytest.Item) -> list[str]:
    return [str(name) for mark in item.iter_markers("needs") for name in mark.args]


def _leave_out(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport, capability: str) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    config.stash[_ABSENT][report.nodeid] = Absence(test=report.nodeid, capability=capability, reason=reason)
    in_ci = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
    if in_ci and not any(entry.allows(report.nodeid, capability) for entry in config.stash[_LISTED]):
        report.outcome = "failed"
        report.longrepr = f"cannot run here [{capability}]: {reason}; not listed in tests/cannot_run.toml"
