"""What was harmed where, and what came of it: a table for people, printed at the end and kept as a file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.chaos.gate import Boundary
from tests.chaos.shares import report_file

FILE = report_file("chaos")


@dataclass(frozen=True)
class Row:
    """One case. `seconds` from the harm to the next step of who stood there, None when nobody came there to stand;
    `trouble` is empty when all was well."""

    flow: str
    boundary: Boundary
    victim: str
    seconds: float | None
    trouble: str


@dataclass
class Report:
    rows: list[Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, *rows: Row) -> None:
        """Takes more, and writes the whole again: who ends a long run early keeps what it showed."""
        self.rows += rows
        self._write()

    def fail(self, test: str, words: str) -> None:
        """Takes in what a test failed of, also where no row has it."""
        self.failed.append(f"{test}: {words}")
        self._write()

    def _write(self) -> None:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(self.table())

    def summary(self) -> list[str]:
        """A line for each flow and victim."""
        cases: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            cases.setdefault((row.flow, row.victim), []).append(row)
        return [
            f"{flow:20} {victim:28} {len(rows):3} boundaries, {sum(bool(row.trouble) for row in rows)} wrong;"
            f" next step after {median(_seconds(rows)):4.1f} s, at most {max(_seconds(rows)):.1f}"
            for (flow, victim), rows in cases.items()
        ]

    def table(self) -> str:
        """Boundaries down, victims across: the seconds, `WRONG`, or `-` where nobody came; what was wrong below it."""
        victims = list(dict.fromkeys(row.victim for row in self.rows))
        cells = {(row.flow, row.boundary, row.victim): row for row in self.rows}
        lines = [f"| flow | boundary | {' | '.join(victims)} |", f"|---|---|{'---|' * len(victims)}"]
        for flow, boundary in dict.fromkeys((row.flow, row.boundary) for row in self.rows):
            found = [cells.get((flow, boundary, victim)) for victim in victims]
            lines.append(f"| {flow} | {boundary} | {' | '.join(map(_cell, found))} |")
        wrong = dict.fromkeys(f"{row.flow}, {row.victim}: {row.trouble}" for row in self.rows if row.trouble)
        return "\n".join([*lines, "", *wrong, *self.failed, ""])


def _seconds(rows: Sequence[Row]) -> list[float]:
    return [row.seconds for row in rows if row.seconds is not None] or [0.0]


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.seconds is None:
        return "-"
    return "WRONG" if row.trouble else f"{row.seconds:.1f}"
