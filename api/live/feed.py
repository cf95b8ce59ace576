"""A user's event stream: what was missed, then what happens, each stored event once and in order."""

import asyncio
from datetime import datetime
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.live.limits import SEND_SECONDS, Close, Closing
from api.live.ports import DATABASE_AWAY, now
from api.live.positions import Positions, Watcher
from api.live.together import together
from api.live.whole import whole
from api.pagination import seal, unseal
from core.db.engine import Db
from core.db.notify import Listener, Wake
from core.db.repositories import events
from core.db.repositories.waiting import Place
from core.domain.cursors import USER_EVENTS
from core.domain.events import Event, EventKind
from core.domain.lifecycle import AgentState
from core.errors import InvalidRequest

log = structlog.get_logger()

_BATCH = 200
# Each event wakes; this is for a wake-up that was lost.
_LOOK_SECONDS = 30.0
_AWAY_SECONDS = 1.0


class FeedEvent(BaseModel):
    """One message. Keep the latest `cursor` and give it as `after` to go on from there; live-only ones repeat it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")
    cursor: str
    agent_id: str | None
    project_id: str
    seq: int | None
    at: datetime
    kind: EventKind
    state: AgentState | None
    reason: str | None
    detail: dict[str, Any]


def cursor_of(place: int) -> str:
    return seal(USER_EVENTS, str(place))


def place_of(cursor: str) -> int:
    """Raises `InvalidRequest` for a cursor that is not of this stream."""
    place = unseal(USER_EVENTS, cursor)
    if not place.isascii() or not place.isdigit() or len(place) > 18:
        raise InvalidRequest("the cursor is not one that Berth gave")
    return int(place)


class Feed:
    """One accepted socket. Pulls from the database as fast as the client reads, so there is no queue to overflow."""

    def __init__(
        self,
        socket: WebSocket,
        user_id: str,
        after: int | None,
        *,
        db: Db,
        listener: Listener,
        positions: Positions,
        lifetime_seconds: float,
    ) -> None:
        self._socket, self._user_id, self._after = socket, user_id, after
        self._db, self._listener, self._positions = db, listener, positions
        self._lifetime_seconds = lifetime_seconds
        self._told: dict[str, Place] = {}

    async def serve(self) -> None:
        """Until the client leaves, its time is up, or it does not behave."""
        closing = Closing(Close.RECONNECT, "reconnect")
        try:
            await together(self._write(), self._read(), within=self._lifetime_seconds)
        except WebSocketDisconnect:
            return
        except Closing as said:
            closing = said
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.close(closing.code, closing.reason)
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            log.info("feed.gone", user_id=self._user_id)

    async def _read(self) -> None:
        """Clients have nothing to say here."""
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        raise Closing(Close.GARBAGE, "this socket only tells")

    async def _write(self) -> None:
        with (
            self._listener.subscribe((Wake.EVENTS, self._user_id)) as news,
            self._positions.watch(self._user_id, news) as watcher,
        ):
            unread = True
            while True:
                try:
                    # A place that changed is no event: a thousand who are told of theirs ask the database nothing.
                    if unread:
                        await self._push_events()
                    await self._push_places(watcher)
                except DATABASE_AWAY as error:
                    log.warning("feed.database_away", error=type(error).__name__)
                    await asyncio.sleep(_AWAY_SECONDS)
                    unread = True
                else:
                    woken = await news.wait(_LOOK_SECONDS)
                    unread = news.heard() or not woken

    async def _push_events(self) -> None:
        while True:
            batch = await whole(self._batch())
            for event in batch:
                await self._send(_message(event))
                self._after = event.cursor
            if len(batch) < _BATCH:
                return

    async def _push_places(self, watcher: Watcher) -> None:
        for place in watcher.places.values():
            if self._told.get(place.agent_id) != place:
                await self._send(_moved(place, self._after or 0))
        self._told = dict(watcher.places)

    async def _batch(self) -> list[Event]:
        async with self._db.transaction() as session:
            head = await events.head(session, self._user_id)
            # Without a place to begin, and after one that is yet to come, begin now.
            self._after = head if self._after is None else min(self._after, head)
            return await events.of_user(session, self._user_id, self._after, _BATCH)

    async def _send(self, message: FeedEvent) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_text(message.model_dump_json(by_alias=True))
        except TimeoutError:
            raise Closing(Close.SLOW, "too slow") from None


def _message(event: Event) -> FeedEvent:
    return FeedEvent(cursor=cursor_of(event.cursor), **event.model_dump(exclude={"cursor"}))


def _moved(place: Place, after: int) -> FeedEvent:
    wait = place.wait
    return FeedEvent(
        cursor=cursor_of(after),
        agent_id=place.agent_id,
        project_id=place.project_id,
        seq=None,
        at=now(),
        kind=EventKind.POSITION_CHANGED,
        state=AgentState.QUEUED,
        reason=None,
        detail={
            "position": place.position,
            "estimatedWaitMinutes": wait.minutes,
            "estimatedWait": {"low": wait.low, "high": wait.high},
        },
    )
