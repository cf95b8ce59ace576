"""Many small removals: one that fails keeps neither the others nor the caller from theirs."""

import asyncio

import pytest
from sqlalchemy.exc import OperationalError
from temporalio.service import RPCError, RPCStatusCode

from activities.sweeps import Step, sweep
from core.errors import NotFound, Unavailable


@pytest.mark.parametrize(
    "failure",
    [
        Unavailable("away"),
        NotFound("no such agent"),
        TimeoutError(),
        RPCError("away", RPCStatusCode.UNAVAILABLE, b""),
        OperationalError("SELECT", {}, Exception("deadlock detected")),
        ConnectionResetError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_removal_that_fails_stays_and_the_others_go(failure: Exception) -> None:
    async def fails() -> bool:
        raise failure

    async def goes() -> bool:
        return True

    swept = await sweep([goes, fails, goes], seconds=60)
    assert (swept.removed, swept.stays) == (2, 1)


async def test_removals_that_hang_keep_no_other_from_being_made_at_one_of_the_next_looks() -> None:
    gone: set[int] = set()

    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    def goes(number: int) -> Step:
        async def step() -> bool:
            gone.add(number)
            return True

        return step

    steps = [*[hangs] * 8, *(goes(number) for number in range(5))]
    for _ in range(200):
        await sweep(steps, seconds=0.01)
        if len(gone) == 5:
            break
    assert len(gone) == 5
