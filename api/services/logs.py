"""An agent's own log, read from its runtime, whole or as it grows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from api.auth import Identity
from api.deps import Deps
from api.services.access import readable_agent
from core.errors import Busy, RuntimeFault, Unavailable

log = structlog.get_logger()

_FIRST_SECONDS = 1.0
_WHOLE_SECONDS = 30.0
_FOLLOW_SECONDS = 900.0
_MOST_A_USER = 10


class LogStream:
    """An open log. Iterate `chunks` at most once; `close` in any case.

    `torn` tells, after the last chunk, that the log has more, or may have. The time of a followed one is over by
    agreement: whoever follows asks again.
    """

    def __init__(self, agent_id: str, source: AsyncIterator[bytes], follow: bool, closed: Callable[[], None]) -> None:
        self.torn = False
        self._agent_id = agent_id
        self._source = source
        self._follow = follow
        self._deadline = asyncio.get_running_loop().time() + (_FOLLOW_SECONDS if follow else _WHOLE_SECONDS)
        self._closed = closed
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next = self._ask()

    async def begin(self) -> None:
        """Wait a moment for the first chunk; raises `RuntimeFault` if the runtime fails at once."""
        done, _ = await asyncio.wait({self._next}, timeout=_FIRST_SECONDS)
        if done and (fault := self._next.exception()) is not None:
            raise fault

    def end(self) -> None:
        """Have a followed log end now, as it does when its time is over; one that is read whole has its time still."""
        if self._follow and not self._over.done():
            self._over.set_result(None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Until the log ends, its time is over, or the runtime fails."""
        while True:
            left = self._deadline - asyncio.get_running_loop().time()
            ends: set[asyncio.Future[Any]] = {self._next, self._over}
            await asyncio.wait(ends, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
            if not self._next.done():
                log.info("logs.ended_by_time", agent_id=self._agent_id)
                self.torn = not self._follow
                return
            try:
                chunk = self._next.result()
            except RuntimeFault as error:
                log.warning("logs.broken", agent_id=self._agent_id, code=error.error_code)
                self.torn = True
                return
            if chunk is None:
                return
            self._next = self._ask()
            yield chunk

    async def close(self) -> None:
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)
        self._closed()

    def _ask(self) -> asyncio.Task[bytes | None]:
        return asyncio.create_task(_next_of(self._source))


class LogReader:
    """Opens logs for one process, so many to a user at a time."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._open: Counter[str] = Counter()
        self._streams: set[LogStream] = set()

    def leave(self) -> None:
        """End what is followed: this process is about to, and whoever follows asks another."""
        for stream in self._streams:
            stream.end()

    async def open(self, who: Identity, agent_id: str, *, follow: bool) -> LogStream:
        """The agent's log; a followed one ends with the agent, or after 15 minutes. The caller closes it.

        Raises `NotFound`, `Busy`, and `Unavailable` (`runtime_unavailable`) if the runtime fails at once.
        """
        async with self._deps.acting(who) as (session, _):
            view = await readable_agent(session, who, agent_id)
        runtime = self._deps.runtimes.get(view.runtime)
        if runtime is None:
            raise Unavailable("this server has no way to that agent's runtime", code="runtime_unavailable")
        if self._open[who.user_id] >= _MOST_A_USER:
            raise Busy("too many logs are open", retry_after=10)
        self._open[who.user_id] += 1
        source = runtime.logs(agent_id, follow=follow and not view.over)
        stream = LogStream(agent_id, source, follow, lambda: self._left(who.user_id, stream))
        self._streams.add(stream)
        try:
            await stream.begin()
        except RuntimeFault as fault:
            await stream.close()
            raise Unavailable("the runtime does not answer", code="runtime_unavailable") from fault
        except BaseException:
            await stream.close()
            raise
        return stream

    def _left(self, user_id: str, stream: LogStream) -> None:
        self._streams.discard(stream)
        self._open[user_id] -= 1
        if self._open[user_id] <= 0:
            del self._open[user_id]


async def _next_of(source: AsyncIterator[bytes]) -> bytes | None:
    return await anext(source, None)
