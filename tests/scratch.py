"""The temporary folder of this run alone.

pytest's own is shared by every run of an account, and each run that begins closes it to all other accounts, also under
the parts that another run has started as one.
"""

import shutil
import tempfile
from pathlib import Path

import pytest

_FOLDER = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None:
        folder = Path(tempfile.mkdtemp(prefix="berth-test-"))
        folder.chmod(0o711)
        config.stash[_FOLDER] = folder
        config.option.basetemp = str(folder / "run")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What failed is kept to be looked at; the rest is of no use to anybody."""
    folder = session.config.stash.get(_FOLDER, None)
    if folder is not None and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    folder = config.stash.get(_FOLDER, None)
    if folder is not None and folder.exists():
        terminalreporter.write_line(f"the temporary files of this run are in {folder}")
