"""Places in the queues as they change, for the users who are looking: worked out once a pool, pushed to many."""

import asyncio
import contextlib
from collections.abc import Iterator

import structlog
from pydantic import BaseModel, ConfigDict

from api.live.ports import DATABASE_AWAY
from core.db.engine import Db
from core.db.notify import Listener, Subscription, Wake
from core.db.repositories import waiting
from core.db.repositories.waiting import Place
from core.settings import Settings

log = structlog.get_logger()

PUSH_SECONDS = 1.0
# A pool's queue wakes us when it moves; this is for the wait, which shrinks as others leave, and for a lost wake-up.
_LOOK_SECONDS = 15.0


class Watcher(BaseModel):
    """One user looking. `places` by agent id."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    user_id: str
    news: Subscription
    places: dict[str, Place] = {}


class Positions:
    """`run` keeps the places of watching users up to date, at most every second; it rests while nobody looks."""

    def __init__(self, db: Db, listener: Listener, settings: Settings) -> None:
        self._db, self._listener, self._settings = db, listener, settings
        self._watchers: dict[int, Watcher] = {}
        self._wanted = asyncio.Event()

    @contextlib.contextmanager
    def watch(self, user_id: str, news: Subscription) -> Iterator[Watcher]:
        """A watcher whose `places` are renewed; `news` is nudged when they changed."""
        watcher = Watcher(user_id=user_id, news=news)
        self._watchers[id(watcher)] = watcher
        self._wanted.set()
        try:
            yield watcher
        finally:
            del self._watchers[id(watcher)]

    async def run(self) -> None:
        pools = list(self._settings.all_pools())
        keys = [(Wake.QUEUE, pool) for pool in pools]
        with self._listener.subscribe(*keys) as moved:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._watchers:
                    try:
                        await self._renew(pools)
                    except DATABASE_AWAY as error:
                        log.warning("positions.not_known", error=type(error).__name__)
                    await asyncio.sleep(PUSH_SECONDS)
                    if not self._wanted.is_set():
                        await self._rest(moved)
                    self._wanted.clear()

    async def _rest(self, moved: Subscription) -> None:
        """Until a queue moves, a watcher comes, or it is time to look anyway."""
        came = asyncio.create_task(self._wanted.wait())
        try:
            waits = [came, asyncio.create_task(moved.wait(_LOOK_SECONDS))]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _renew(self, pools: list[str]) -> None:
        users: dict[str, dict[str, Place]] = {}
        rules = self._settings.rules()
        async with self._db.transaction() as session:
            watching = {watcher.user_id for watcher in self._watchers.values()}
            if await waiting.anyone(session, watching):
                for pool in pools:
                    for place in await waiting.places(session, pool, watching, rules):
                        users.setdefault(place.user_id, {})[place.agent_id] = place
        for watcher in self._watchers.values():
            places = users.get(watcher.user_id, {})
            if places != watcher.places:
                watcher.places = places
                watcher.news.nudge()
