"""How many sockets or waiting calls each user holds in this process, and how many uploads and reports each agent."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from core.errors import Busy


class Seats:
    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._taken: Counter[str] = Counter()

    def taken(self, holder: str) -> int:
        return self._taken[holder]

    @contextlib.contextmanager
    def take(self, holder: str) -> Iterator[None]:
        """One seat for the time of the block. Raises `Busy`."""
        if self._taken[holder] >= self._most:
            raise Busy(f"at most {self._most} {self._what} at a time; let one end first")
        self._taken[holder] += 1
        try:
            yield
        finally:
            self._taken[holder] -= 1
            if not self._taken[holder]:
                del self._taken[holder]
