"""Somebody else's text as a part of a sentence of ours. Pure."""

import re

_MOST = 300  # characters
_TAIL_LINES = 3
# Colours and other orders to a terminal, and single control characters.
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_ADDRESS = re.compile(r"\b(?:[a-z][a-z0-9+.-]*://|(?:blob|data|javascript):)\S+", re.IGNORECASE)
_SECRETIVE = re.compile(r"[?#]")


def one_line(text: str | None) -> str:
    """Somebody else's message as a part of a sentence: one line, no control characters, not too long."""
    line = " ".join(_CONTROL.sub(" ", text or "").split()).rstrip(".")
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"


def last_lines(text: str | None) -> str:
    """The end of a log: its last lines that say something, at most as many characters as fit a sentence."""
    lines = [line.strip() for line in _CONTROL.sub(" ", text or "").splitlines() if line.strip()]
    tail = " | ".join(lines[-_TAIL_LINES:])
    return tail if len(tail) <= _MOST else "…" + tail[1 - _MOST :]


def place(url: str) -> str:
    """Scheme, host and path of a URL: the rest may hold a login's code, or a password. Of `data:` and its like, whose
    all is content, the scheme.
    """
    scheme, web, rest = url.partition("://")
    if not web or ":" in scheme:
        return url[: url.find(":") + 1]
    host, slash, path = _SECRETIVE.split(rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def with_places(text: str) -> str:
    """A text with each URL in it as its `place`."""
    return _ADDRESS.sub(lambda found: place(found[0]), text)
