"""A workflow that its worker can hardly clear away; run as a program, a worker of Berth's that serves it as well."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from temporalio import workflow

from core.settings import Settings
from temporal import worker


@workflow.defn(sandboxed=False)
class Clinging:
    """Waits for ever; stays so many times when it is told to go."""

    @workflow.run
    async def run(self, stays: int) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except BaseException as told:
                stays -= 1
                if stays < 0 or isinstance(told, GeneratorExit):
                    raise

    @workflow.signal
    async def stumble(self) -> None:
        """Fails the step, so that the run has to be cleared away and read anew."""
        raise RuntimeError("on purpose")


if __name__ == "__main__":
    ready, patience = sys.argv[1:]
    changes = {"Maintenance": Clinging, "PATIENCE_SECONDS": float(patience), "_DRAIN": timedelta(seconds=2)}
    vars(worker).update(changes)  # one workflow more, and less time
    sys.exit(asyncio.run(worker.run_worker(Settings(), ready_file=Path(ready))))
