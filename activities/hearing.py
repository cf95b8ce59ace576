"""A signal to one workflow of many: one that refuses it (a full history, say) must not keep the others from theirs."""

from collections.abc import Awaitable

import structlog
from temporalio.service import RPCError

log = structlog.get_logger()


async def heard(signal: Awaitable[bool], told: str, **whom: str) -> bool | None:
    """Whether it was taken; False when no such workflow runs, None when it was refused, which the log tells.

    Raises `core.errors.Unavailable` when Temporal does not answer: then nobody else would be reached either.
    """
    try:
        return await signal
    except RPCError as refused:
        log.warning("signal.refused", told=told, status=refused.status.name, **whom)
        return None
