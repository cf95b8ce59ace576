"""Somebody else's text as a part of a sentence of ours. Pure."""

import re

_MOST = 300  # characters
_TAIL_LINES = 3
# Colours and other orders to a terminal, and single control characters.
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def one_line(text: str | None) -> str:
    """Somebody else's message as a part of a sentence: one line, no control characters, not too long."""
    line = " ".join(_CONTROL.sub(" ", text or "").split()).rstrip(".")
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"


def last_lines(text: str | None) -> str:
    """The end of a log: its last lines that say something, at most as many characters as fit a sentence."""
    lines = [line.strip() for line in _CONTROL.sub(" ", text or "").splitlines() if line.strip()]
    tail = " | ".join(lines[-_TAIL_LINES:])
    return tail if len(tail) <= _MOST else "…" + tail[1 - _MOST :]
