"""A body of unknown length, taken to disk first: neither memory nor a transaction waits for a slow sender."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import IO

from core.errors import Busy, InvalidRequest, TooLarge

_TOTAL_SECONDS = 300.0
_PIECE_SECONDS = 30.0
_IN_MEMORY = 1 << 20


class Upload:
    """What has been received."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.size = file, size

    def chunks(self, size: int) -> Iterator[bytes]:
        self._file.seek(0)
        while data := self._file.read(size):
            yield data


class Intray:
    """At most `at_once` uploads at a time; more are told to come again."""

    def __init__(self, at_once: int = 8) -> None:
        self._free = at_once

    @asynccontextmanager
    async def receive(self, stream: AsyncIterator[bytes], limit: int) -> AsyncIterator[Upload]:
        """The whole body. Raises `TooLarge` past `limit` bytes, `InvalidRequest` for a sender that stalls, `Busy`."""
        if self._free <= 0:
            raise Busy("too many uploads at once")
        self._free -= 1
        try:
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
                yield Upload(file, await _fill(file, stream, limit))
        finally:
            self._free += 1


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
