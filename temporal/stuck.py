"""Notices a step that a worker cannot clear away: it holds one of few places, and its workflow, as long as it lives.

The SDK takes a workflow that has not yielded for two seconds for deadlocked, also where the machine was only busy or
the process was throttled, and interrupts it wherever it stands. Of what that leaves behind the SDK may not get rid: it
tries again every two seconds for as long as the process lives, and waits for it when the worker shall end.
"""

import asyncio
from collections.abc import Iterable

from temporalio.worker import Worker

# Most are cleared away by the second try. Until then nothing is lost by waiting, and a worker that leaves loses much.
PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 1.0


def uncleared(worker: Worker) -> int:
    """How many runs this worker has failed to clear away and not yet succeeded; the SDK tells nobody."""
    at_work = worker._workflow_worker
    return at_work._could_not_evict_count if at_work is not None else 0


async def stuck(workers: Iterable[Worker], seconds: float) -> None:
    """Return when there was such a step at every look for so long."""
    workers = list(workers)
    clock = asyncio.get_running_loop().time
    since = clock()
    while clock() - since < seconds:
        await asyncio.sleep(_LOOK_SECONDS)
        if not any(map(uncleared, workers)):
            since = clock()
