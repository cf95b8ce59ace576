"""An answer of many bytes, sent as fast as its reader takes them, and not for ever."""

import asyncio
from collections.abc import AsyncIterable, Mapping

import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.live.seats import Seats

log = structlog.get_logger()

# 50 MiB, the most there is, at 60 KiB a second.
TOTAL_SECONDS = 900.0


class Download(StreamingResponse):
    """Holds a seat of its user while it is sent; raises `Busy` instead of beginning when there is none.

    One that takes too long is left without its end: the server then cuts the connection, and the reader sees that it
    broke.
    """

    def __init__(
        self, pieces: AsyncIterable[bytes], seats: Seats, user_id: str, *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._seats, self._user_id = seats, user_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._seats.take(self._user_id):
            try:
                async with asyncio.timeout(TOTAL_SECONDS) as time:
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                if not time.expired():
                    raise
                log.info("download.ended_by_time", user_id=self._user_id)
