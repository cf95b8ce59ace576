"""The one way to Temporal: pydantic payloads, a bounded wait, errors as ours."""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import Runtime
from temporalio.service import KeepAliveConfig, RPCError, RPCStatusCode

from core.errors import Unavailable
from core.settings import Settings
from temporal.tracing import Traces

_AWAY = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.ABORTED,
        RPCStatusCode.INTERNAL,
        RPCStatusCode.UNKNOWN,
    }
)

# A line that leads nowhere any more, without a word, is given up after these together (Temporal's own: 45 s, in which
# no life goes on). The server closes lines that ask more often than every 10 s.
_ALIVE = KeepAliveConfig(interval_millis=12_000, timeout_millis=5_000)


async def connect(
    settings: Settings, *, lazy: bool = True, runtime: Runtime | None = None, traces: Traces | None = None
) -> Client:
    """A client that connects at its first call, so that a part of ours can start before Temporal does.

    Workers need one that is not `lazy`: it connects now, and raises RuntimeError when there is no server. Theirs may
    run on a `runtime` of its own, which counts. With `traces`, what is asked for by it carries the trace along.
    """
    if settings.temporal.address is None:
        raise ValueError("set BERTH_TEMPORAL__ADDRESS, or start everything with `berth up`")
    more: dict[str, Any] = {} if traces is None else {"interceptors": [traces.interceptor]}
    return await Client.connect(
        settings.temporal.address,
        namespace=settings.temporal.namespace,
        data_converter=pydantic_data_converter,
        lazy=lazy,
        runtime=runtime,
        keep_alive_config=_ALIVE,
        **more,
    )


def is_away(error: RPCError) -> bool:
    """Whether the server could not answer now, as against said no."""
    return error.status in _AWAY


async def taken(call: Awaitable[object]) -> bool:
    """Whether a run took what `call` says to it; False when none goes on. Raises as `translated`."""
    try:
        with translated():
            await call
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


@contextmanager
def translated() -> Iterator[None]:
    """Turn an absent server into `Unavailable`; what the server refuses stays an RPCError."""
    try:
        yield
    except RPCError as error:
        if is_away(error):
            raise Unavailable("Temporal does not answer", code="temporal_unavailable") from error
        raise
    except RuntimeError as error:
        # What a lazy client raises, bare, for the first connection that it cannot make.
        if type(error) is not RuntimeError:
            raise
        raise Unavailable("Temporal cannot be reached", code="temporal_unavailable") from error
