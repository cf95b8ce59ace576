"""Heartbeats of an activity, while its work goes on."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from temporalio import activity

T = TypeVar("T")
_BEAT_EVERY = 1.0


async def beating(work: Coroutine[Any, Any, T], *, to_its_end: bool = True) -> T:
    """Carry `work` out with heartbeats, so that a worker's death is noticed; a cancel waits until it is done, unless
    it may as well be left where it is.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task}, timeout=_BEAT_EVERY)
        except asyncio.CancelledError as error:
            # What is being made must be there before it can be removed, so this goes on, and goes on to beat.
            cancelled = error
            if not to_its_end:
                task.cancel()
        activity.heartbeat()
    if cancelled is not None:
        await asyncio.gather(task, return_exceptions=True)
        raise cancelled
    return await task
