"""Plays every flow on a stage and writes its histories: `python -m tests.replay.record [-k flow]`."""

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    flows = Path(__file__).with_name("flows.py")
    sys.exit(pytest.main([str(flows), "-o", "python_files=flows.py", *sys.argv[1:]]))
