"""`make bench`: speed and size, as ratios where the machine's mood would spoil plain numbers."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from core.leaving import leave
from tests.bench.figures import Figures
from tests.bench.kubernetes import KubernetesBench
from tests.bench.line import LineBench
from tests.bench.local import LocalBench
from tests.bench.power import PowerBench
from tests.bench.queue import QueueBench
from tests.bench.reaper import ReaperBench
from tests.bench.recovery import RecoveryBench

_Bench = LocalBench | KubernetesBench | LineBench | PowerBench | QueueBench | ReaperBench | RecoveryBench
_PARTS: dict[str, type[_Bench]] = {
    "local": LocalBench,
    "queue": QueueBench,
    "line": LineBench,
    "power": PowerBench,
    "reaper": ReaperBench,
    "recovery": RecoveryBench,
    "kubernetes": KubernetesBench,
}


async def _run(figures: Figures, parts: list[str], quick: bool) -> None:
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="berth-bench-") as scratch:
            await _PARTS[part](figures, quick).run(Path(scratch))


def main(argv: list[str]) -> int:
    options = argparse.ArgumentParser(prog="make bench", description=__doc__)
    options.add_argument("--quick", action="store_true", help="a third of the size, for a first look")
    options.add_argument("--only", choices=sorted(_PARTS), help="that part alone")
    options.add_argument("--json", type=Path, help="where to write the figures for programs")
    given = options.parse_args(argv)
    figures = Figures()
    try:
        asyncio.run(_run(figures, [given.only] if given.only else list(_PARTS), given.quick))
    finally:
        # What was measured before something broke is worth its minutes all the same.
        Console().print(figures.table())
        if given.json:
            figures.write(given.json)
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
