"""Plays flows on a stage and writes the histories that are new: `python -m tests.replay.record [-k flow] [--anew]`."""

import os
import sys
from pathlib import Path

import pytest

from core.leaving import leave

ANEW = "BERTH_RECORD_ANEW"

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--anew" in arguments:
        arguments.remove("--anew")
        os.environ[ANEW] = "yes"
    flows = sorted(str(path) for path in Path(__file__).parent.glob("*flows.py"))
    leave(int(pytest.main([*flows, "-o", "python_files=*flows.py", *arguments])))
