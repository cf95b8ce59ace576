"""How long a connection may take to say what it wants and to take its answer: it holds memory and a file meanwhile."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
# What was written and not taken yet is seldom more than a mebibyte.
UNREAD_SECONDS = 300.0


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP, whose own patience begins after the first answer and ends with the first byte of the next head.

    A connection without a whole head for `HEAD_SECONDS` is closed, whether it is new or between two requests. One whose
    other end does not take in `UNREAD_SECONDS` what was written to it is cut off, also when it was closed over that.
    """

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def handle_events(self) -> None:
        super().handle_events()
        # Also while it goes on with a body that was answered already: nobody waits for the rest of that.
        if self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE:
            self._await_head()
        else:
            self._forget()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._taken()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _taken(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
