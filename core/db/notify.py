"""Wake-ups between processes over Postgres NOTIFY: ids only, so whoever is woken reads the rows again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Self

import asyncpg
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.engine import plain_url

log = structlog.get_logger()

_CONNECT_SECONDS = 5.0
_CHECK_SECONDS = 10.0
_BACKOFF_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)


class Wake(StrEnum):
    """Postgres channels and what their payload is."""

    EVENTS = "berth_events"  # user id
    COMMANDS = "berth_commands"  # agent id
    RESULTS = "berth_results"  # agent id / command id
    CHANNEL = "berth_channel"  # agent id
    QUEUE = "berth_queue"  # pool
    NOTICES = "berth_notices"  # notice channel


def result_key(agent_id: str, command_id: str) -> str:
    return f"{agent_id}/{command_id}"


async def notify(session: AsyncSession, wake: Wake, key: str) -> None:
    """Wake the subscribers of `key` when the session's transaction commits; equal ones in a transaction are one."""
    await session.execute(text("SELECT pg_notify(:channel, :key)"), {"channel": wake.value, "key": key})


class Subscription:
    """A flag that says "look again". Wake-ups that nobody has taken yet are one, so it can never overflow."""

    def __init__(self) -> None:
        self._flag = asyncio.Event()
        self._heard = False

    def wake(self) -> None:
        self._heard = True
        self._flag.set()

    def nudge(self) -> None:
        """Wake whoever waits for a reason of this process: nothing changed that would have to be read."""
        self._flag.set()

    def heard(self) -> bool:
        """Whether there was a wake-up, and not only a nudge, since this was asked last."""
        heard, self._heard = self._heard, False
        return heard

    async def wait(self, seconds: float) -> bool:
        """Return True as soon as there was a wake-up since the last call, False after `seconds` without one."""
        try:
            async with asyncio.timeout(seconds):
                await self._flag.wait()
        except TimeoutError:
            return False
        self._flag.clear()
        return True


class Listener:
    """One connection a process that listens to every `Wake`.

    Subscribe first, then read, then wait: a change is either seen by the read or wakes. While the connection is broken
    wake-ups are lost, so after it is back every subscriber is woken once.

    `task` is its work, which never ends by itself; whoever opened it watches for that, as nothing is heard from then.
    """

    task: asyncio.Task[None]

    def __init__(self, url: str) -> None:
        self._url = plain_url(url)
        self._subscribers: dict[tuple[str, str], set[Subscription]] = {}
        self._connected = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """A listener at work; it connects by itself, also when the database is not there yet."""
        listener = cls(url)
        listener.task = asyncio.create_task(listener._run(), name="listener")
        try:
            yield listener
        finally:
            listener.task.cancel()
            await asyncio.gather(listener.task, return_exceptions=True)

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    async def wait_connected(self, seconds: float) -> None:
        """Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self._connected.wait()

    @contextlib.contextmanager
    def subscribe(self, *keys: tuple[Wake, str]) -> Iterator[Subscription]:
        """Context with a `Subscription` that any of `keys` wakes."""
        subscription = Subscription()
        names = [(wake.value, key) for wake, key in keys]
        for name in names:
            self._subscribers.setdefault(name, set()).add(subscription)
        try:
            yield subscription
        finally:
            for name in names:
                holders = self._subscribers[name]
                holders.discard(subscription)
                if not holders:
                    del self._subscribers[name]

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
                failures = 0
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                pause = _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)]
                failures = 0 if self._connected.is_set() else failures + 1
                log.warning("listener.lost", error=type(error).__name__, retry_seconds=pause)
                self._connected.clear()
                await asyncio.sleep(pause)

    async def _listen(self) -> None:
        """Serve one connection until it breaks; always raises."""
        connection = await asyncpg.connect(
            self._url,
            timeout=_CONNECT_SECONDS,
            command_timeout=_CONNECT_SECONDS,
            server_settings={"application_name": "berth-listener"},
        )
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            for wake in Wake:
                await connection.add_listener(wake.value, self._heard)
            self._connected.set()
            self._wake_all()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await lost.wait()
                if lost.is_set():
                    raise ConnectionError("the listening connection ended")
                # A peer that vanished without a word is found by asking.
                await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        for subscription in self._subscribers.get((channel, str(payload)), ()):
            subscription.wake()

    def _wake_all(self) -> None:
        for holders in self._subscribers.values():
            for subscription in holders:
                subscription.wake()
