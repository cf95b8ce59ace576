"""The sides of one conversation, of which the first to end ends all."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def together(*sides: Coroutine[Any, Any, None], within: float | None = None) -> None:
    """Run `sides` until one ends or `within` seconds are over; return when all are. Raises what that one raised.

    What the others raise while they are ended is theirs alone: it follows from the end.
    """
    tasks = [asyncio.create_task(side) for side in sides]
    try:
        done, _ = await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for task, outcome in zip(tasks, outcomes, strict=True):
        if task in done and isinstance(outcome, BaseException):
            raise outcome
