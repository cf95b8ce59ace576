"""Answers to a peer's pings, for as long as the peer reads them."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MAX_UNREAD_BYTES = 256 << 10


class PongLimit(WebSocketsSansIOProtocol):
    """uvicorn's socket, which answers each ping although nothing it wrote is read: all those answers are in memory.

    A peer that goes on asking and leaves 256 KiB of answers unread is cut off. One that is just slow with a picture is
    not: what counts is answers alone, since there last was room for what we write.
    """

    _unread = 0

    def handle_ping(self) -> None:
        answers = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self._unread = 0
        self._unread += len(answers)
        if self._unread > MAX_UNREAD_BYTES:
            self.transport.abort()
        if not self.transport.is_closing():
            self.transport.write(answers)
