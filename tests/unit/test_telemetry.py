"""Logs: one line an event, named by part, without secrets, the standard library's included."""

import json
import subprocess
import sys

from core.tokens import hash_token, new_token

_PROGRAM = """
import logging, structlog
from core import telemetry
telemetry.configure("worker", json=True)
log = structlog.get_logger()
log.info("agent.queued", agent_id="ag-1", agent_token="s3cret", request={"Authorization": "s3cret", "path": "/x"})
log.debug("not told")
logging.getLogger("library").warning("spoke %s", "up")
logging.getLogger("httpx2").info("not told")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


def test_events_are_lines_of_json_without_secrets() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    assert "s3cret" not in done.stderr
    assert "not told" not in done.stderr
    queued, spoke, failed = [json.loads(line) for line in done.stderr.splitlines()]
    assert (queued["part"], queued["level"], queued["event"]) == ("worker", "info", "agent.queued")
    assert (queued["agent_id"], queued["request"]["path"]) == ("ag-1", "/x")
    assert queued["timestamp"].endswith("Z")
    assert (spoke["part"], spoke["level"], spoke["event"]) == ("worker", "warning", "spoke up")
    assert "ZeroDivisionError" in failed["exception"]


_STRANGE = r"""
import logging, structlog
from core import telemetry
telemetry.configure("api")
log = structlog.get_logger()
log.info("agent.status", agent_id="\x1b]0;mine\x07", status="\x9b2J", known=["\x1b[8m"], kind="fine")
logging.getLogger("library").warning("spoke %s", "\x1b[2J\nof an event that never was")
try:
    raise ValueError("no \x1b[31m number")
except ValueError:
    log.exception("failed")
"""


def test_what_a_stranger_writes_cannot_order_the_terminal_of_a_logs_reader_about() -> None:
    done = subprocess.run([sys.executable, "-c", _STRANGE], capture_output=True, text=True, timeout=60, check=True)
    assert [each for each in done.stderr.replace("\n", "") if not each.isprintable()] == []
    told, spoke, failed, *trace = done.stderr.splitlines()
    assert r"agent_id='\x1b]0;mine\x07'" in told
    assert r"status='\x9b2J'" in told
    assert r"kind=fine known=['\x1b[8m']" in told
    assert r"spoke \x1b[2J\nof an event that never was" in spoke
    assert "failed" in failed
    assert trace[-1] == r"ValueError: no \x1b[31m number"


def test_tokens_differ_and_are_kept_as_hashes_only() -> None:
    first, second = new_token("agt"), new_token("agt")
    assert first.get_secret_value() != second.get_secret_value()
    assert len(first.get_secret_value()) == len("agt_") + 43
    assert str(first) == "**********"
    assert hash_token("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
