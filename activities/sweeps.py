"""Many small removals: a few at once, and all of them for a bounded time."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from core.domain.value import Value
from core.errors import BerthError

log = structlog.get_logger()
_AT_ONCE = 8

# Whether it removed something: False when that would not go, None when there was nothing to remove.
Step = Callable[[], Awaitable[bool | None]]


class Swept(Value):
    """How many were removed, and how many are left to the next look."""

    removed: int = 0
    stays: int = 0


async def sweep(steps: Sequence[Step], seconds: float) -> Swept:
    """What will not go keeps neither the others nor the caller; neither does a Temporal or a database that is away."""
    gate = asyncio.Semaphore(_AT_ONCE)
    outcomes: list[bool | None] = []

    async def take(step: Step) -> None:
        async with gate:
            try:
                outcomes.append(await step())
            except (BerthError, TimeoutError, RPCError, SQLAlchemyError, OSError) as away:
                log.warning("reaper.cannot_ask", kind=type(away).__name__, why=str(away)[:300] or "no answer in time")
                outcomes.append(False)

    # In an order that is never the same: those that hang take all places there are for as long as a look lasts.
    shuffled = random.sample(steps, len(steps))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(take(step) for step in shuffled))
    except TimeoutError:
        log.warning("reaper.out_of_time", seconds=seconds, left=len(steps) - len(outcomes))
    removed = outcomes.count(True)
    return Swept(removed=removed, stays=len(steps) - removed - outcomes.count(None))
