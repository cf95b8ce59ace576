"""What agents without a socket said of themselves a moment ago, so that the same again costs no row a lock."""

import time

from api.live.limits import HEARTBEAT_APART_SECONDS


class Beats:
    """Of each agent the last report that was stored, for `seconds`. One that tells of another state is always new."""

    def __init__(self, seconds: float = HEARTBEAT_APART_SECONDS) -> None:
        self.seconds = seconds
        # Oldest first.
        self._stored: dict[str, tuple[float, str, int]] = {}

    def known(self, speaker: str, status: str) -> int | None:
        """The number that the stored one was answered with; None when this one has to be stored."""
        at, before, seq = self._stored.get(speaker, (0.0, "", 0))
        return seq if before == status and time.monotonic() - at < self.seconds else None

    def stored(self, speaker: str, status: str, seq: int) -> None:
        now = time.monotonic()
        self._stored.pop(speaker, None)
        while self._stored and now - next(iter(self._stored.values()))[0] >= self.seconds:
            del self._stored[next(iter(self._stored))]
        self._stored[speaker] = (now, status, seq)
