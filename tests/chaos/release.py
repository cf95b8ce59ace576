"""A part of Berth as the release before has it, or today's: `python -m tests.chaos.release worker`.

What the release before did is today's code without the changes that are guarded by a name: there, nobody asks for them.
"""

import os
from pathlib import Path

from temporalio import workflow

# Names the file that says, at each start, which release it is to be.
RELEASE = "ROLLING_RELEASE"
BEFORE, TODAY = "before", "today"


def _never(name: str, **_: object) -> bool:
    return False


if __name__ == "__main__":
    if Path(os.environ[RELEASE]).read_text() == BEFORE:
        workflow.patched = _never  # type: ignore[assignment]
    from api.cli.main import run

    run()
