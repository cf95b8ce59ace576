"""Loads what all tests share: the account of what cannot run here, the run's own folder, every module of fixtures."""

from pathlib import Path

import pytest

# All of them before the first is loaded, as they import one another.
pytest.register_assert_rewrite("tests.fixtures")

_FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("[!_]*.py"))

pytest_plugins = [
    "tests.cannot_run",
    "tests.patience",
    "tests.scratch",
    *(f"tests.fixtures.{module.stem}" for module in _FIXTURES),
]
