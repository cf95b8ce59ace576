"""Notices a step that a worker can never clear away, which holds one of its few slots until the process ends.

The SDK takes a workflow that has not yielded for two seconds for deadlocked, also where the machine was only busy or
the process was throttled, and interrupts it wherever it stands. Of what that leaves behind the SDK may not get rid: it
says so once, tries again for as long as the process lives, and waits for it when the worker shall end.
"""

import asyncio
import logging

_SDK = "temporalio.worker._workflow"
_CANNOT_EVICT = ("Failed running eviction job", "Timed out running eviction job")


class Stuck(logging.Filter):
    """Listens to all workers of this process from now on. Only leaving helps one: another takes over its lives."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._found = asyncio.Event()
        logging.getLogger(_SDK).addFilter(self)

    @property
    def found(self) -> bool:
        return self._found.is_set()

    async def wait(self) -> None:
        """Until there is such a step."""
        await self._found.wait()

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith(_CANNOT_EVICT):
            self._loop.call_soon_threadsafe(self._found.set)
        return True

    def close(self) -> None:
        logging.getLogger(_SDK).removeFilter(self)
