"""What users were told of each kind of failure, and how long it took: a table at the end, and a file."""

from dataclasses import dataclass, field
from pathlib import Path

FILE = Path("build") / "failures.md"


@dataclass(frozen=True)
class Failure:
    """`told` and `usable`: seconds from the blow to the event, and to the next attempt's ready."""

    where: str
    kind: str
    reason: str
    detail: str
    told: float
    usable: float


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
        return head + [
            f"| {row.where} | {row.kind} | {row.told:.1f} s | {row.usable:.1f} s | {row.reason} | {_cell(row.detail)} |"
            for row in self.rows
        ]


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
