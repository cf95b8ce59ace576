"""Whether today's workflows go the way of every recorded history: `python -m tests.replay.check`, by `make check`."""

import asyncio
import json
import logging
import sys
from collections import defaultdict
from pathlib import Path

from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from core.leaving import leave
from temporal.interceptors import Sieve
from tests.replay.seals import recorded, unsound
from workflows.agent import AgentWorkflow
from workflows.maintenance import Maintenance
from workflows.notices import Notices
from workflows.pool_queue import PoolQueue
from workflows.pressure import PressureWatch
from workflows.reaper import Reaper
from workflows.scheduled_start import ScheduledStart

WORKFLOWS = [AgentWorkflow, Maintenance, Notices, PoolQueue, PressureWatch, Reaper, ScheduledStart]
# One takes some hundredths of a second; code that never comes to an end is not waited for.
_MOST_SECONDS = 20
_LONGEST_WHY = 400

WHAT_TO_DO = """\
What runs while this is rolled out would stop at such a place, and stay there until the change is taken back. Instead:
  1. Keep the old way beside the new one. Give the change a name among the others in workflows/options.py, and ask for
     it where the ways part: `if workflow.patched(NAME): the new way`, `else: the old one`. A run that passed the place
     before goes the old way, every other the new.
  2. Record the new way as a history of its own: a flow in tests/replay/later_flows.py, then
     .venv/bin/python -m tests.replay.record -k name_of_the_flow
  3. Do not edit, delete or record anew a history that is there: it stands for lives that run.
tests/replay/README.md tells more."""


def history(path: Path) -> WorkflowHistory:
    told = json.loads(path.read_text())
    return WorkflowHistory.from_json(told.pop("workflowId"), told)


async def broken(paths: list[Path]) -> dict[str, dict[str, Exception]]:
    """Which histories today's workflows cannot repeat, and why: type of workflow to name of history to reason."""
    replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter, interceptors=[Sieve()])
    found: dict[str, dict[str, Exception]] = defaultdict(dict)
    for path in paths:
        told = history(path)
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                failure = (await replayer.replay_workflow(told, raise_on_replay_failure=False)).replay_failure
        except TimeoutError as endless:
            failure = endless
        if failure is not None:
            begun = told.events[0].workflow_execution_started_event_attributes
            found[begun.workflow_type.name][path.stem] = failure
    return found


def words(found: dict[str, dict[str, Exception]]) -> list[str]:
    """For whoever made the change."""
    said = []
    for workflow, histories in sorted(found.items()):
        name, failure = next(iter(histories.items()))
        kind = "goes another way than" if isinstance(failure, NondeterminismError) else "fails in"
        said.append(f"{workflow} {kind} {len(histories)} of its recorded histories: {', '.join(histories)}")
        said.append(f"  {name}: {str(failure)[:_LONGEST_WHY] or type(failure).__name__}")
    return said


def main() -> int:
    # What the library says of a failing task is said here, shorter.
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    wrong = unsound()
    found = asyncio.run(broken(recorded()))
    said = [*wrong, *words(found), *([WHAT_TO_DO] if found else [])]
    sys.stdout.write("".join(f"{line}\n" for line in said))
    return 1 if wrong or found else 0


if __name__ == "__main__":
    leave(main())
