"""Recorded histories, one file a run; see the README beside them."""

from pathlib import Path

HISTORIES = Path(__file__).parent
