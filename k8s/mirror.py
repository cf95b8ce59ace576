"""A collection of objects in a cluster, kept up to date by one list and watch."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

import structlog

from core.errors import RuntimeFault
from k8s.client import Cluster, Json, Query
from k8s.faults import TooOld
from k8s.listing import pages

log = structlog.get_logger()
# Between two breaths of the event loop: a list of thousands must not keep everything else waiting.
_A_BREATH = 50


@dataclass(frozen=True)
class Pace:
    """In seconds. The server ends each watch itself after `watch`; one that is silent beyond `silence` is dead.

    A frozen connection says nothing for ever, and the server's own signs of life (bookmarks) come once a minute only.
    """

    relist: float = 300
    watch: int = 20
    silence: float = 25
    pause: float = 0.2
    longest_pause: float = 5


class Copy(Protocol):
    """What is kept of the objects. Told of the same object again and again."""

    def put(self, thing: Json) -> None: ...

    def drop(self, thing: Json) -> None: ...

    def keep(self, uids: Set[str]) -> None:
        """All that exist have just been put; those of other uids went unseen."""


class Mirror:
    """Lists, then watches from there; lists again after any error and every few minutes, so nothing stays missed."""

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        copy: Copy,
        *,
        doing: str,
        query: Query | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._path = path
        self._copy = copy
        self._doing = doing
        self._query = dict(query or {})
        self._pace = pace or Pace()
        self._clock = clock
        self._heard_at = clock()
        # When the last list began: it knows of everything that was there by then.
        self.listing_since = float("-inf")
        self.lists = 0
        self.synced = asyncio.Event()

    @property
    def age_seconds(self) -> float:
        """How old the copy may be at most: since the server was last heard of."""
        return self._clock() - self._heard_at

    async def run(self) -> None:
        """Keep the copy until cancelled."""
        pause, complaint = self._pace.pause, ""
        while True:
            began = self._clock()
            try:
                await self._list_and_watch()
                continue
            except TooOld:
                log.info("mirror.too_old", of=self._doing)
            except RuntimeFault as error:
                if error.detail != complaint:
                    log.warning("mirror.broken", of=self._doing, why=error.detail)
                complaint = error.detail
            if self._heard_at > began:
                pause, complaint = self._pace.pause, ""
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._pace.longest_pause)

    async def _list_and_watch(self) -> None:
        until = self._clock() + self._pace.relist
        version = await self._list()
        while self._clock() < until:
            began = self._clock()
            version = await self._watch(version)
            if self._clock() - began < self._pace.pause:
                await asyncio.sleep(self._pace.pause)

    async def _list(self) -> str:
        """Put all that exist; return the point to watch from."""
        uids: set[str] = set()
        version = ""
        self.listing_since = self._clock()
        async for page in pages(self._cluster, self._path, doing=self._doing, query=self._query):
            self._heard_at = self._clock()
            version = page.version
            for number, thing in enumerate(page.items):
                uids.add(thing["metadata"]["uid"])
                self._copy.put(thing)
                if number % _A_BREATH == 0:
                    await asyncio.sleep(0)
        self._copy.keep(uids)
        self.lists += 1
        self.synced.set()
        return version

    async def _watch(self, version: str) -> str:
        """Follow from `version` until the server ends it in order; return the point to go on from."""
        watched = self._cluster.watch(
            self._path,
            doing=self._doing,
            query={**self._query, "resourceVersion": version},
            seconds=self._pace.watch,
            silence=self._pace.silence,
        )
        async with contextlib.aclosing(watched) as events:
            async for kind, thing in events:
                self._heard_at = self._clock()
                match kind:
                    case "ADDED" | "MODIFIED":
                        self._copy.put(thing)
                    case "DELETED":
                        self._copy.drop(thing)
                    case _:
                        pass  # a bookmark: only its version counts
                version = str(thing["metadata"]["resourceVersion"])
        self._heard_at = self._clock()
        return version
