"""Words about agents, sent side by side: those of one agent in order, of all together only so many at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.errors import RuntimeFault, Unavailable

log = structlog.get_logger()
Send = Callable[[], Awaitable[object]]

AT_ONCE = 32
# What then still fails is told again after the next list.
_TRIES = 5
_PAUSE_SECONDS = 0.5


class Deliveries:
    """Open it for as long as words come: leaving it drops what was not sent yet.

    A word that fails is tried again a few times, meanwhile holding up its own agent's words and nobody else's.
    """

    def __init__(self, at_once: int = AT_ONCE, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._lines: dict[str, deque[Send]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause_seconds = pause_seconds
        self._broken: BaseException | None = None

    async def __aenter__(self) -> "Deliveries":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def put(self, agent_id: str, send: Send) -> None:
        """Take a word; waits while as many are under way as may be, so whoever tells us waits too.

        Raises what an earlier word raised that is no outage: a fault of ours must not pass for one.
        """
        if self._broken is not None:
            raise self._broken
        await self._places.acquire()
        line = self._lines.get(agent_id)
        if line is not None:
            line.append(send)
            return
        self._lines[agent_id] = deque([send])
        task = asyncio.create_task(self._empty(agent_id), name=f"deliver {agent_id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("delivery.broken", exc_info=error)
            self._broken = error

    async def _empty(self, agent_id: str) -> None:
        line = self._lines[agent_id]
        while line:
            await self._deliver(agent_id, line[0])
            line.popleft()
            self._places.release()
        del self._lines[agent_id]

    async def _deliver(self, agent_id: str, send: Send) -> None:
        for number in range(1, _TRIES + 1):
            try:
                await send()
            except (RuntimeFault, Unavailable, SQLAlchemyError, OSError) as error:
                log.warning("delivery.failed", agent_id=agent_id, number=number, error=type(error).__name__)
                if number < _TRIES:
                    await asyncio.sleep(self._pause_seconds * number)
            else:
                return
