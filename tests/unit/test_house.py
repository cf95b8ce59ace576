"""The house stands as CONTRIBUTING describes it: arrows, tools, locks."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["importlinter"]["root_packages"]

# One wrong line for each contract, in the order of pyproject.toml: contract's beginning, module, line.
WRONG = [
    ("arrows point one way", "k8s/wrong.py", "import api.routes"),
    ("workflows see activity contracts", "workflows/wrong.py", "import core.db"),
    ("activity contracts are types", "activities/contracts.py", "import core.db"),
    ("rows are the repositories' own", "activities/wrong.py", "from core.db.models import Agent"),
    ("in core, the domain", "core/domain/wrong.py", "import core.dev"),
    ("the domain imports no framework", "core/domain/wrong.py", "import sqlalchemy"),
    ("the agent shares only", "agent_image/wrong.py", "import core.runtime"),
    ("nothing in the control plane imports the agent", "api/wrong.py", "import agent_image.agent"),
]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the packages' Python files, to do wrong things to."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "web"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken_contracts(house: Path) -> list[str]:
    program = Path(sys.executable).parent / "lint-imports"  # puts the folder it is started in before all others
    done = subprocess.run([program, "--no-cache", "--no-logo"], cwd=house, capture_output=True, text=True, timeout=60)
    output = re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", done.stdout))
    assert "Contracts:" in output, done.stdout + done.stderr
    names = [contract["name"] for contract in PYPROJECT["tool"]["importlinter"]["contracts"]]
    broken = [name for name in names if f"{name} BROKEN" in output]
    assert bool(broken) == bool(done.returncode)
    return broken


def test_imports_keep_every_contract(house: Path) -> None:
    assert broken_contracts(house) == []


@pytest.mark.parametrize(("contract", "module", "line"), WRONG, ids=[wrong[0] for wrong in WRONG])
def test_one_wrong_import_breaks_its_contract(house: Path, contract: str, module: str, line: str) -> None:
    with (house / module).open("a") as source:
        source.write(f"\n{line}\n")
    assert any(name.startswith(contract) for name in broken_contracts(house))


def test_every_contract_has_a_wrong_import_that_breaks_it() -> None:
    names = [contract["name"] for contract in PYPROJECT["tool"]["importlinter"]["contracts"]]
    assert [name for name in names if not any(name.startswith(wrong[0]) for wrong in WRONG)] == []


def test_a_new_module_of_core_must_take_a_side_before_imports_pass(house: Path) -> None:
    (house / "core" / "newcomer.py").write_text('"""A module that no layer names."""\n')
    assert any("in core" in name for name in broken_contracts(house))


def test_berth_in_the_image_is_the_function_that_an_installation_calls() -> None:
    """Ended another way, a command that did what it was asked for may seem to have failed (see core/leaving.py)."""
    written = re.search(r"printf '(.+)' > /app/bin/berth", (ROOT / "k8s" / "Dockerfile").read_text())
    assert written is not None
    module, function = PYPROJECT["project"]["scripts"]["berth"].split(":")
    assert written[1].split(r"\n")[1:] == [f"from {module} import {function}", "", f"{function}()", ""]


def test_warnings_are_errors_and_no_test_runs_for_ever() -> None:
    pytest_settings = PYPROJECT["tool"]["pytest"]["ini_options"]
    assert pytest_settings["filterwarnings"][0] == "error"
    assert any("UnfinishedUpdateHandlersWarning" in line for line in pytest_settings["filterwarnings"])
    assert pytest_settings["timeout"] <= 120
    assert pytest_settings["asyncio_mode"] == "auto"
    assert PYPROJECT["tool"]["mypy"]["strict"] is True


def test_house_rules_hold() -> None:
    done = subprocess.run([sys.executable, ".ci/house.py"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
