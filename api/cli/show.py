"""What a person sees: lines, tables and JSON on standard output, notes on standard error."""

import codecs
import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from api.cli.faults import printable

_WIDE = 250  # not a terminal: one row a line, never broken
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# JSON itself escapes those below the space.
_UNESCAPED = re.compile(r"[\x7f-\x9f]")
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def line(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """For the person, not for the program that reads the output."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def as_json(value: Any, *, indent: int | None = 2) -> None:
    """The document. What a terminal would obey is escaped, which changes nothing for who reads it as JSON."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    sys.stdout.write(_UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    sys.stdout.flush()


def stream(chunks: Iterable[bytes]) -> None:
    """Text as it comes. On a terminal, without what it would obey: a page in a browser may have written it."""
    tame = sys.stdout.isatty()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for chunk in chunks:
        text = decoder.decode(chunk)
        sys.stdout.write(_COMMANDS.sub("\ufffd", text) if tame else text)
        sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Rows under their headings; the note `empty` when there are none."""
    if not rows:
        note(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold", no_wrap=column in {"AGENT", "ID", "STATE", "SINCE"})
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    # Not by rich's own hand: it ends the process with 1 when the reader has left.
    with console.capture() as printed:
        console.print(shown)
    sys.stdout.write(printed.get())
    sys.stdout.flush()


def ago(moment: str | None, now: datetime | None = None) -> str:
    """How long ago an RFC 3339 time was, or how far ahead it is: `3 min`, `in 4 s`."""
    if moment is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds()
    size, unit = next((pair for pair in _UNITS if abs(seconds) >= pair[0]), _UNITS[-1])
    amount = f"{int(abs(seconds) // size)} {unit}"
    return amount if seconds >= 0 else f"in {amount}"


def when(moment: str) -> str:
    """The same as one says it of a moment: `3 min ago`, `in 4 s`."""
    found = ago(moment)
    return found if found.startswith("in ") else f"{found} ago"


def clock(moment: str) -> str:
    """An RFC 3339 time as the time of day here."""
    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S")
