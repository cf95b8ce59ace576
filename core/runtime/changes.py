"""Tells watchers what changed: one publisher, any number of bounded subscriptions."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from core.errors import RuntimeRetryable
from core.runtime.base import Observation

# Who asks for a stream over a connection gets it a moment later. What changed until then is told to it as well, if that
# takes no longer than this.
OVERLAP_SECONDS = 5.0
_MAX_RECENT = 1_000
MAX_PENDING = 20_000


class Subscription:
    """An endless iterator of observations; raises `RuntimeRetryable` when the stream broke. Dropping it ends it."""

    def __init__(self, pending: deque[Observation]) -> None:
        self._pending = pending
        self._changed = asyncio.Event()
        self._broken = ""

    def offer(self, observation: Observation) -> None:
        if self._broken:
            return
        if len(self._pending) >= MAX_PENDING:
            self._pending.clear()
            self.end("this watcher fell too far behind; list and watch again")
            return
        self._pending.append(observation)
        self._changed.set()

    def end(self, why: str) -> None:
        self._broken = why
        self._changed.set()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Observation:
        while not self._pending:
            if self._broken:
                raise RuntimeRetryable(self._broken)
            self._changed.clear()
            await self._changed.wait()
        return self._pending.popleft()


class Changes:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._recent: deque[tuple[float, Observation]] = deque(maxlen=_MAX_RECENT)
        self._closed = False

    def publish(self, observation: Observation) -> None:
        self._recent.append((self._clock(), observation))
        for subscription in self._subscriptions:
            subscription.offer(observation)

    def subscribe(self) -> Subscription:
        """From now on, and what was published within the last `OVERLAP_SECONDS`."""
        since = self._clock() - OVERLAP_SECONDS
        subscription = Subscription(deque(change for at, change in self._recent if at >= since))
        if self._closed:
            subscription.end("the runtime is closed")
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """End all subscriptions, after what is pending in them."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end("the runtime is closed")
