"""Plays flows on a stage and writes the histories that are new: `python -m tests.replay.record [-k flow] [--anew]`."""

import os
import sys
from pathlib import Path

import pytest

ANEW = "BERTH_RECORD_ANEW"

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--anew" in arguments:
        arguments.remove("--anew")
        os.environ[ANEW] = "yes"
    flows = Path(__file__).with_name("flows.py")
    sys.exit(pytest.main([str(flows), "-o", "python_files=flows.py", *arguments]))
