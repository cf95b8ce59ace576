"""What was harmed where, and what came of it: a table for people, printed at the end and kept as a file."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.chaos.gate import Boundary

FILE = Path("build") / "chaos.md"


@dataclass(frozen=True)
class Row:
    """One case. `seconds` is how much longer the flow took than undisturbed; `trouble` is empty when all was well."""

    flow: str
    boundary: Boundary
    victim: str
    seconds: float
    trouble: str


@dataclass
class Report:
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Takes one more, and writes the whole again: who ends a long run early keeps what it showed."""
        self.rows.append(row)
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(self.table())

    def summary(self) -> list[str]:
        """A line for each flow and victim."""
        cases: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            cases.setdefault((row.flow, row.victim), []).append(row)
        return [
            f"{flow:20} {victim:28} {len(rows):3} boundaries, {sum(bool(row.trouble) for row in rows)} wrong;"
            f" {median(row.seconds for row in rows):5.1f} s longer, at most {max(row.seconds for row in rows):.1f} s"
            for (flow, victim), rows in cases.items()
        ]

    def table(self) -> str:
        """Boundaries down, victims across: the seconds, or `WRONG`."""
        victims = list(dict.fromkeys(row.victim for row in self.rows))
        cells = {(row.flow, row.boundary, row.victim): row for row in self.rows}
        lines = [f"| flow | boundary | {' | '.join(victims)} |", f"|---|---|{'---|' * len(victims)}"]
        for flow, boundary in dict.fromkeys((row.flow, row.boundary) for row in self.rows):
            found = [cells.get((flow, boundary, victim)) for victim in victims]
            shown = ["" if row is None else "WRONG" if row.trouble else f"{row.seconds:.1f}" for row in found]
            lines.append(f"| {flow} | {boundary} | {' | '.join(shown)} |")
        return "\n".join([*lines, ""])
