"""The agent's log: one JSON line an event on standard output, without tokens.

The control plane logs through structlog, which the agent's environment does not hold; the call looks the same.
"""

import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any


def process_age() -> float:
    """Seconds since this process was started, also counting the time before Python ran."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stat:
            started = int(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)
    except (OSError, ValueError, IndexError):
        return time.process_time()


class Journal:
    """`log.info("browser.started", pid=7)`; values that JSON does not know are written as text."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def bind(self, **fields: Any) -> None:
        """Add fields to every later line of this process."""
        self._fields.update(fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, "level": level, "event": event, **self._fields, **fields}, default=str)
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError:
            pass  # the reader of our log is gone; the agent lives on


log = Journal()
