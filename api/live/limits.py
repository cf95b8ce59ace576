"""What a socket may cost: sizes, rates, waits, and the close codes that say which one was passed."""

import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from api.live.pongs import PongLimit
from api.patience import PatientProtocol
from core.domain.wire import MAX_MESSAGE_BYTES

SEND_SECONDS = 10.0
# The user's sockets end by themselves, so that a token that expired or a replica that left is noticed.
USER_SOCKET_SECONDS = 15 * 60.0
# Longer: a page that came by a link alone has no token to ask for another with, and ends under somebody's hands.
DESKTOP_SECONDS = 60 * 60.0
MAX_USER_SOCKETS = 20
# More than one agent may have open: the same command may be waited for by several.
MAX_USER_CALLS = 100
# More than a browser opens to one server; their readers may be slow.
MAX_USER_DOWNLOADS = 10
# An agent has one; of one that was cut off, the end may be noticed late, and the newest is always let in.
MAX_AGENT_SOCKETS = 3
# Each asks the database who knocks. An agent gives a knock 10 s.
MAX_AGENT_KNOCKS = 5
# By HTTP an agent says one thing after the other; of one that was cut off, the end may be noticed late.
MAX_AGENT_REPORTS = 2
# What an agent says of itself is stored no more often, unless it is in another state.
HEARTBEAT_APART_SECONDS = 1.0

# For whoever starts the server: the socket library itself refuses what is too large, before it is in memory.
# Compression would cost each socket some memory and carries pictures no better.
SERVER_OPTIONS: dict[str, Any] = {
    "http": PatientProtocol,
    "ws": PongLimit,
    "ws_max_size": MAX_MESSAGE_BYTES,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "ws_per_message_deflate": False,
}


class Close(IntEnum):
    """Why Berth closes a socket. 1009 (message too big) and 1013 (try again) are the protocol's own."""

    NORMAL = 1000
    TOO_BIG = 1009
    TRY_AGAIN = 1013
    GARBAGE = 4400
    REFUSED = 4401
    NOT_YOURS = 4403
    RECONNECT = 4408
    REPLACED = 4409
    ENDED = 4410
    SLOW = 4413
    FLOOD = 4429


class Closing(Exception):
    """Ends a socket with `code`."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class TokenBucket:
    """Lets `burst` through at once and `rate` a second after that."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()

    def take(self) -> bool:
        self._refill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def owe(self, amount: float) -> float:
        """Take `amount` whether or not there is so much; after how many seconds there would have been."""
        self._refill()
        self._left -= amount
        return max(-self._left / self._rate, 0.0)

    def full(self) -> bool:
        self._refill()
        return self._left >= self._burst

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
