"""A value that many may ask for at once: made by one at a time, whoever comes meanwhile waits for it, kept a moment."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Fresh(Generic[T]):
    """`make` is run in a task of its own, must end by itself, and never beside itself.

    What it gives is good for `seconds` from then on; so is the error that it raises.
    """

    def __init__(self, make: Callable[[], Awaitable[T]], seconds: float) -> None:
        self.seconds = seconds
        self._make = make
        self._task: asyncio.Task[T] | None = None
        self._until = -math.inf

    async def get(self) -> T:
        if self._task is None or (self._task.done() and time.monotonic() >= self._until):
            self._task = asyncio.create_task(self._made())
        # A caller that leaves takes it from nobody else.
        return await asyncio.shield(self._task)

    async def _made(self) -> T:
        try:
            return await self._make()
        finally:
            self._until = time.monotonic() + self.seconds
