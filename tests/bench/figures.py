"""What was measured, beside what was asked of it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured thing and what was asked of it; `good` None: nothing was asked."""

    name: str
    value: str
    asked: str
    good: bool | None


class Figures:
    """Tells each one as it comes, and all of them at the end."""

    def __init__(self) -> None:
        self.all: list[Figure] = []
        self._console = Console(stderr=True)

    def note(self, name: str, value: str, asked: str = "", good: bool | None = None) -> None:
        self.all.append(Figure(name, value, asked, good))
        self._console.print(f"{name}: {value}")

    def table(self) -> Table:
        drawn = Table("measured", "value", "asked", "")
        for figure in self.all:
            drawn.add_row(figure.name, figure.value, figure.asked, {True: "ok", False: "short", None: ""}[figure.good])
        return drawn

    def write(self, file: Path) -> None:
        file.write_text(json.dumps([asdict(figure) for figure in self.all], indent=2))
