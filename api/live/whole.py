"""Database work of a socket's task, finished also when the socket goes meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def whole(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`. When the caller is cancelled, first wait for `work` to end.

    A query that is cancelled half-way costs its connection, and sockets come and go all the time. The waiting is
    bounded by the database's own timeouts.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # the caller is gone, nobody else asks for it
        raise
