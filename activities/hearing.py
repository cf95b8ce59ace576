"""A word to one workflow of many: one that refuses it (a full history, say) must not keep the others from theirs."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import structlog
from temporalio.service import RPCError

log = structlog.get_logger()
_Answer = TypeVar("_Answer")


async def heard(word: Awaitable[_Answer], told: str, **whom: str) -> _Answer | None:
    """What came of it: of a signal, whether such a workflow runs. None when it was refused, which the log tells.

    Raises `core.errors.Unavailable` when Temporal does not answer: then nobody else would be reached either.
    """
    try:
        return await word
    except RPCError as refused:
        log.warning("signal.refused", told=told, status=refused.status.name, **whom)
        return None


async def wake_pools(wake_pool: Callable[[str], Awaitable[bool]], pools: Iterable[str]) -> None:
    """Tell the queues of `pools` that they may let somebody in. One that hears nothing looks by itself some time."""
    for pool in pools:
        await heard(wake_pool(pool), "capacity_changed", pool=pool)
