"""What users were told of each kind of failure, and how long it took: a table at the end, and a file."""

from dataclasses import dataclass, field

from tests.chaos.shares import report_file

FILE = report_file("failures")


@dataclass(frozen=True)
class Failure:
    """`told` and `usable`: seconds from the blow to the event, and until it is usable again; None: it is not."""

    where: str
    kind: str
    reason: str
    detail: str
    told: float
    usable: float | None


@dataclass
class Failures:
    rows: list[Failure] = field(default_factory=list)

    def add(self, failure: Failure) -> None:
        """Takes one more, and writes the whole again."""
        self.rows.append(failure)
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text("\n".join(self.table()) + "\n")

    def table(self) -> list[str]:
        head = [
            "| where | what happened | told after | usable after | reason | in words |",
            "|---|---|---|---|---|---|",
        ]
        return head + [f"| {' | '.join(_cells(row))} |" for row in self.rows]


def _cells(row: Failure) -> list[str]:
    usable = "-" if row.usable is None else f"{row.usable:.1f} s"
    detail = row.detail.replace("|", "/").replace("\n", " ")
    return [row.where, row.kind, f"{row.told:.1f} s", usable, row.reason, detail]
