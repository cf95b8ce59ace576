"""View-only, enforced where it cannot be switched off: what a VNC viewer sends, without what would act.

RFC 6143 and its registered extensions; only messages whose length we know pass, so nothing can hide inside another.
"""

from dataclasses import dataclass, field
from enum import IntEnum


class UnknownMessage(Exception):
    """The viewer sent something whose end we cannot know: the connection must be closed."""


class ClientMessage(IntEnum):
    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    UPDATE_REQUEST = 3
    KEY = 4
    POINTER = 5
    CUT_TEXT = 6
    CONTINUOUS_UPDATES = 150
    FENCE = 248
    XVP = 250
    SET_DESKTOP_SIZE = 251
    QEMU = 255


_PASSED = {
    ClientMessage.SET_PIXEL_FORMAT,
    ClientMessage.SET_ENCODINGS,
    ClientMessage.UPDATE_REQUEST,
    ClientMessage.CONTINUOUS_UPDATES,
    ClientMessage.FENCE,
}
# The version, and the choice of the security type "None". Another version has a hello of another length: the server
# would read on from another byte than we do, and find keys in what we take for requests.
_HELLO = b"RFB 003.008\n\x01"
_HANDSHAKE = len(_HELLO) + 1  # and ClientInit
# Once offered, these change how long the viewer's own messages are.
_EXTENDED_MOUSE_BUTTONS = -316
_EXTENDED_CLIPBOARD = 0xC0A1E5CE - (1 << 32)


@dataclass
class ViewOnly:
    """Feed it what a viewer sends; it returns what may go on to the server. Keeps at most one message."""

    _buffer: bytearray = field(default_factory=bytearray)
    _handshake: int = _HANDSHAKE
    _skip: int = 0

    def feed(self, data: bytes) -> bytes:
        """Bytes for the server. Raises `UnknownMessage`."""
        self._buffer += data
        out = bytearray()
        while self._buffer:
            if self._handshake:
                out += self._greeting(min(self._handshake, len(self._buffer)))
            elif self._skip:
                gone = min(self._skip, len(self._buffer))
                del self._buffer[:gone]
                self._skip -= gone
            elif not self._message(out):
                break
        return bytes(out)

    def _greeting(self, length: int) -> bytes:
        said = _HANDSHAKE - self._handshake
        taken = self._take(length)
        if not taken.startswith(_HELLO[said : said + length]):
            raise UnknownMessage("another version or kind of handshake")
        self._handshake -= length
        return taken

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _message(self, out: bytearray) -> bool:
        """Handle the next message; False when its length or its whole is not there yet."""
        try:
            kind = ClientMessage(self._buffer[0])
        except ValueError:
            raise UnknownMessage(f"message {self._buffer[0]}") from None
        length = self._length(kind)
        if length is None:
            return False
        if kind not in _PASSED:
            self._skip = length  # dropped as it comes in, so that a long cut text is not collected
            return True
        if len(self._buffer) < length:
            return False
        message = self._take(length)
        out += _without_growing(message) if kind is ClientMessage.SET_ENCODINGS else message
        return True

    def _length(self, kind: ClientMessage) -> int | None:
        buffer = self._buffer

        def number(start: int, size: int, *, signed: bool = False) -> int | None:
            if len(buffer) < start + size:
                return None
            return int.from_bytes(buffer[start : start + size], "big", signed=signed)

        match kind:
            case ClientMessage.SET_PIXEL_FORMAT:
                return 20
            case ClientMessage.UPDATE_REQUEST | ClientMessage.CONTINUOUS_UPDATES:
                return 10
            case ClientMessage.KEY:
                return 8
            case ClientMessage.POINTER:
                return 6
            case ClientMessage.XVP:
                return 4
            case ClientMessage.SET_ENCODINGS:
                count = number(2, 2)
                return None if count is None else 4 + 4 * count
            case ClientMessage.CUT_TEXT:
                size = number(4, 4, signed=True)
                return None if size is None else 8 + abs(size)
            case ClientMessage.FENCE:
                size = number(8, 1)
                return None if size is None else 9 + size
            case ClientMessage.SET_DESKTOP_SIZE:
                screens = number(6, 1)
                return None if screens is None else 8 + 16 * screens
            case ClientMessage.QEMU:
                sub = number(1, 1)
                if sub is None:
                    return None
                if sub != 0:
                    raise UnknownMessage(f"message 255/{sub}")
                return 12


def _without_growing(message: bytes) -> bytes:
    """A SetEncodings message without the encodings that would change the length of later messages."""
    encodings = [message[start : start + 4] for start in range(4, len(message), 4)]
    kept = [
        each
        for each in encodings
        if int.from_bytes(each, "big", signed=True) not in {_EXTENDED_MOUSE_BUTTONS, _EXTENDED_CLIPBOARD}
    ]
    return message[:2] + len(kept).to_bytes(2, "big") + b"".join(kept)
