"""A body of unknown length, taken to disk first: neither memory nor a transaction waits for a slow sender."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import IO

from api.live.seats import Seats
from core.db.repositories.agents import AgentView
from core.errors import InvalidRequest, TooLarge

_TOTAL_SECONDS = 300.0
_PIECE_SECONDS = 30.0
_IN_MEMORY = 1 << 20
_AT_ONCE = 8
# An agent sends one at a time; of one that was cut off, the end may be noticed late.
_OF_ONE_AGENT = 2
# However many agents a user has, and however slowly they send, others come to their turn.
_OF_ONE_USER = 5
# When many agents stop together they all save, and somebody else's screenshot must not wait for that.
_SAVED, _SAVED_OF_ONE_USER = 5, 4


class Upload:
    """What has been received."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.size = file, size

    def chunks(self, size: int) -> Iterator[bytes]:
        self._file.seek(0)
        while data := self._file.read(size):
            yield data


class Intray:
    """At most 8 uploads at a time, 5 of one user, 2 of one agent; of saved work 5, 4 of one user.

    More are told to come again.
    """

    def __init__(self) -> None:
        self._agents = Seats(_OF_ONE_AGENT, "uploads of an agent")
        self._users = Seats(_OF_ONE_USER, "uploads of a user's agents")
        self._users_saved = Seats(_SAVED_OF_ONE_USER, "uploads of saved work of a user's agents")
        self._saved = Seats(_SAVED, "uploads of saved work")
        self._all = Seats(_AT_ONCE, "uploads")

    @asynccontextmanager
    async def receive(
        self, stream: AsyncIterator[bytes], limit: int, who: AgentView, *, saved: bool
    ) -> AsyncIterator[Upload]:
        """The whole body. Raises `TooLarge` past `limit` bytes, `InvalidRequest` for a sender that stalls, `Busy`."""
        with ExitStack() as taken:
            taken.enter_context(self._agents.take(who.agent_id))
            taken.enter_context(self._users.take(who.user_id))
            if saved:
                taken.enter_context(self._users_saved.take(who.user_id))
                taken.enter_context(self._saved.take(""))
            taken.enter_context(self._all.take(""))
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
                yield Upload(file, await _fill(file, stream, limit))


async def _fill(file: IO[bytes], stream: AsyncIterator[bytes], limit: int) -> int:
    size = 0
    try:
        async with asyncio.timeout(_TOTAL_SECONDS):
            while True:
                async with asyncio.timeout(_PIECE_SECONDS):
                    piece = await anext(stream, None)
                if piece is None:
                    return size
                size += len(piece)
                if size > limit:
                    raise TooLarge(f"an artefact may have {limit} bytes", code="artefact_too_large")
                await asyncio.to_thread(file.write, piece)
    except TimeoutError:
        raise InvalidRequest("the body did not come in time", code="upload_stalled") from None
