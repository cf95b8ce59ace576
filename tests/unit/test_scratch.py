"""Two runs of the tests at once leave each other's temporary files alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARK = "written in "


def test_files_of_a_run_are_in_a_folder_of_its_own(tmp_path: Path) -> None:
    sys.stdout.write(f"{MARK}{tmp_path}\n")
    assert tmp_path.parents[1].name.startswith("berth-test-")


def test_run_that_begins_closes_no_folder_of_one_that_goes_on(tmp_path: Path) -> None:
    mine = (tmp_path, tmp_path.parent, tmp_path.parent.parent)
    for folder in mine:
        folder.chmod(0o711)
    other = f"{__file__}::{test_files_of_a_run_are_in_a_folder_of_its_own.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", other]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert [folder.stat().st_mode & 0o777 for folder in mine] == [0o711] * 3
    assert run.returncode == 0, run.stdout + run.stderr
    (place,) = (line.split(MARK)[1] for line in run.stdout.splitlines() if MARK in line)
    # Nothing is left of a run in which nothing failed.
    assert not Path(place).parents[1].exists()
