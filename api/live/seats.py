"""How many sockets or waiting calls each user holds in this process, and how many of what each agent."""

import asyncio
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


class NewestSeats:
    """So many seats for each holder, of which the newcomer always has one: who has sat longest is told to go.

    For those who come again because their last seat broke: it may count for a while although nobody sits there.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, list[asyncio.Event]] = {}

    @contextlib.contextmanager
    def take(self, holder: str) -> Iterator[asyncio.Event]:
        """One seat for the time of the block, which has to end soon after the event is set."""
        told = asyncio.Event()
        row = self._taken.setdefault(holder, [])
        row.append(told)
        for each in row[: -self._most]:
            each.set()
        try:
            yield told
        finally:
            row.remove(told)
            if not row:
                del self._taken[holder]
