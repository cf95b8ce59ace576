"""Whether a browser that has ended gets another in its place, and which page that one opens. Pure."""

from collections import deque
from dataclasses import dataclass

from core.domain.wire import BrowserEnd, CommandFault

_FATAL = ":FATAL:"
_WORDS = 300
MAX_REPAIRS = 3
REPAIR_WINDOW_SECONDS = 600.0


@dataclass(frozen=True)
class Death:
    """How a browser ended: `end` for programs, `words` for people, as what a new browser's user is told."""

    end: BrowserEnd
    words: str

    def told(self, log: str) -> str:
        """With what Chromium said of it at the end of its `log`, whose other lines complain of every machine."""
        fatal = [line.strip() for line in log.splitlines() if _FATAL in line]
        return f"{self.words}: {fatal[-1][:_WORDS]}" if fatal and self.end is BrowserEnd.CRASHED else self.words

    @property
    def fault(self) -> CommandFault:
        """What the commands that it cut off end with."""
        return CommandFault.PAGE_OUT_OF_MEMORY if self.end is BrowserEnd.OUT_OF_MEMORY else CommandFault.BROWSER_FAILED


@dataclass(frozen=True)
class Replace:
    """Start another; it opens `address`, or a blank page when that is ""."""

    address: str


@dataclass(frozen=True)
class GiveUp:
    """It has ended too often: whoever runs the agent decides."""


class Repairs:
    """Remembers the repairs of one agent. A time is seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, str]] = deque(maxlen=MAX_REPAIRS)

    def decide(self, death: Death, address: str, now: float) -> Replace | GiveUp:
        """`address` was in front. A browser that its user closed is no failure, and their page is not wanted back."""
        if death.end is BrowserEnd.CLOSED:
            return Replace(address="")
        lately = [opened for at, opened in self._done if now - at < REPAIR_WINDOW_SECONDS]
        if len(lately) == MAX_REPAIRS:
            return GiveUp()
        # The page may be what ended it: not the one that took all memory, and no page a second time.
        again = "" if death.end is BrowserEnd.OUT_OF_MEMORY or address in lately else address
        self._done.append((now, again))
        return Replace(address=again)
