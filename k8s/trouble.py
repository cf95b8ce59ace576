"""What is wrong with a pod, in our terms, and the parts that its sentences are made of."""

import re
from collections.abc import Iterable

from kubernetes.aio.client import CoreV1Event
from pydantic import BaseModel, ConfigDict

from core.domain.recovery import FailureKind

_MOST = 300  # characters of somebody else's text in one sentence of ours
_TAIL_LINES = 3
# Colours and other orders to a terminal, and single control characters.
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class Trouble(BaseModel):
    """`final` is False while it may still pass by itself: then it is worth telling, and not worth giving up for."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: FailureKind
    detail: str
    final: bool = True


def one_line(text: str | None) -> str:
    """Somebody else's message as a part of a sentence: one line, no control characters, not too long."""
    line = " ".join(_CONTROL.sub(" ", text or "").split()).rstrip(".")
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"


def last_lines(text: str | None) -> str:
    """The end of a log: its last lines that say something, at most as many characters as fit a sentence."""
    lines = [line.strip() for line in _CONTROL.sub(" ", text or "").splitlines() if line.strip()]
    tail = " | ".join(lines[-_TAIL_LINES:])
    return tail if len(tail) <= _MOST else "…" + tail[1 - _MOST :]


def latest(events: Iterable[CoreV1Event], *reasons: str) -> str:
    """The message of the last event of these reasons, events being oldest first; empty when there is none."""
    found = ""
    for event in events:
        if event.reason in reasons and event.message:
            found = event.message
    return found
