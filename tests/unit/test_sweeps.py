"""Many small removals: one that fails keeps neither the others nor the caller from theirs."""

import pytest
from sqlalchemy.exc import OperationalError
from temporalio.service import RPCError, RPCStatusCode

from activities.sweeps import sweep
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
