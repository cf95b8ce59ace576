"""Words about agents, sent side by side: those of one agent in order, of all together only so many at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType

import structlog
from sqlalchemy.exc import SQLAlchemyError
from structlog.contextvars import bind_contextvars
from temporalio.service import RPCError, RPCStatusCode

from core.errors import RuntimeFault, Unavailable

log = structlog.get_logger()
Send = Callable[[], Awaitable[object]]

AT_ONCE = 32
# Beyond that, whoever tells us waits too.
MOST_KEPT = 1_000
_TRIES = 5
_PAUSE_SECONDS = 0.5
# Said of whoever asks, not of whom the word is for.
_SAID_OF_US = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED})


class Deliveries:
    """Open it for as long as words come.

    A word that meets an outage is tried again a few times, meanwhile holding up its own agent's words alone. When it
    meets one for good, the block around it is cancelled and ends with that error: whoever opened it begins anew, and
    tells everything that still holds. A word that fails for any other reason (its workflow takes no signal more, say)
    is logged and left: beginning anew would mend nothing, and keep everybody else's from them.
    """

    def __init__(
        self, at_once: int = AT_ONCE, most_kept: int = MOST_KEPT, pause_seconds: float = _PAUSE_SECONDS
    ) -> None:
        self._sending = asyncio.Semaphore(at_once)
        self._kept = asyncio.Semaphore(most_kept)
        self._lines: dict[str, deque[Send]] = {}
        self._group = asyncio.TaskGroup()
        self._pause_seconds = pause_seconds

    async def __aenter__(self) -> "Deliveries":
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for what is still to be sent, unless it ends by an error: then that is dropped."""
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def put(self, agent_id: str, send: Send) -> None:
        """Take a word; waits while as many are kept as may be."""
        await self._kept.acquire()
        line = self._lines.get(agent_id)
        if line is not None:
            line.append(send)
            return
        self._lines[agent_id] = deque([send])
        self._group.create_task(self._empty(agent_id), name=f"deliver {agent_id}")

    async def _empty(self, agent_id: str) -> None:
        bind_contextvars(agent_id=agent_id)  # of this task alone
        line = self._lines[agent_id]
        while line:
            await self._deliver(agent_id, line[0])
            line.popleft()
            self._kept.release()
        del self._lines[agent_id]

    async def _deliver(self, agent_id: str, send: Send) -> None:
        for number in range(1, _TRIES + 1):
            try:
                async with self._sending:
                    await send()
            except (RuntimeFault, Unavailable, SQLAlchemyError, OSError) as error:
                log.warning("delivery.failed", agent_id=agent_id, number=number, error=type(error).__name__)
                if number == _TRIES:
                    raise
                await asyncio.sleep(self._pause_seconds * number)
            except RPCError as refused:
                if refused.status in _SAID_OF_US:
                    raise
                log.warning("signal.refused", agent_id=agent_id, status=refused.status.name)
                return
            except Exception:  # owner: the other agents, whose words must not end with what is wrong with this one
                log.exception("delivery.broken", agent_id=agent_id)
                return
            else:
                return
