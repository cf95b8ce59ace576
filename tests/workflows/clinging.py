"""A workflow that its worker can never clear away; run as a program, a worker of Berth's that serves it as well."""

import asyncio
import sys
from pathlib import Path

from temporalio import workflow

from core.settings import Settings
from temporal import worker


@workflow.defn(sandboxed=False)
class Clinging:
    """Waits for ever, also when it is told to go, unless it `lets_go`."""

    @workflow.run
    async def run(self, lets_go: bool) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except BaseException as told:
                if lets_go or isinstance(told, GeneratorExit):
                    raise

    @workflow.signal
    async def stumble(self) -> None:
        """Fails the step, so that the run has to be cleared away and read anew."""
        raise RuntimeError("on purpose")


if __name__ == "__main__":
    vars(worker)["Maintenance"] = Clinging  # one of those that it serves
    sys.exit(asyncio.run(worker.run_worker(Settings(), ready_file=Path(sys.argv[1]))))
