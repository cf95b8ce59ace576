"""A desktop session: the viewer's socket and the agent's, joined for as long as the viewer may look."""

import asyncio
import time
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import structlog
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from api.live.limits import SEND_SECONDS, Close, Closing
from api.live.ports import DATABASE_AWAY, Reacher, now
from api.live.together import together
from api.live.whole import whole
from core.db.engine import Db
from core.db.notify import Listener, Wake
from core.db.repositories import agents, projects, tickets
from core.db.repositories.agents import AgentView
from core.db.repositories.tickets import TicketGrant, TicketKind
from core.domain.lifecycle import AgentState
from core.domain.viewing import said_by_itself
from core.errors import RuntimeFault

log = structlog.get_logger()

TICKET_LIFETIME = timedelta(minutes=2)
# While it drains the user may still save by hand.
VIEWABLE = frozenset({AgentState.RUNNING, AgentState.DRAINING})
_OPEN_SECONDS = 10.0
_LOOK_SECONDS = 15.0
_TOUCH_SECONDS = 15.0
# A screen comes in pieces of some hundred kilobytes; whatever is larger is no picture.
_MAX_FRAME = 8 << 20
_MAX_QUEUE = 16
# First byte of RFB messages that a person causes: KeyEvent, PointerEvent, ClientCutText, QEMU's extended key.
_INPUT = frozenset({4, 5, 6, 255})


class _StraightTo(connect):
    """Goes where it was told and nowhere else: what answers is in an agent's hands, and we reach inner networks."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Desktops:
    """Admits viewers by ticket and carries their sockets, each for at most `seconds`: who looks on has to ask again."""

    def __init__(self, db: Db, listener: Listener, reach: Reacher, seconds: float) -> None:
        self._db, self._listener, self._reach = db, listener, reach
        self.seconds = seconds

    async def admit(self, ticket: str) -> tuple[TicketGrant, AgentView]:
        """Use a ticket up, and check again all that it stood for. Raises `Closing`."""
        async with self._db.transaction() as session:
            grant = await tickets.consume(session, ticket, TicketKind.DESKTOP, now())
            view = None if grant is None else await _in_view(session, grant)
        if grant is None:
            raise Closing(Close.REFUSED, "the ticket is unknown, used or expired")
        if view is None:
            raise Closing(Close.REFUSED, "the ticket is of an agent that is over, or of a project of others")
        return grant, view

    async def carry(self, viewer: WebSocket, grant: TicketGrant, view: AgentView) -> None:
        """Join the accepted socket to the agent's screen until one side leaves, access ends or its time is up.

        Raises `Closing`.
        """
        try:
            reach = await self._reach(view.runtime, view.agent_id, view.attempt)
            async with _StraightTo(
                _screen_url(reach.desktop_url, grant.mode or "view"),
                additional_headers={"X-Agent-Token": reach.token.get_secret_value()},
                open_timeout=_OPEN_SECONDS,
                close_timeout=2,
                max_size=_MAX_FRAME,
                max_queue=_MAX_QUEUE,
                compression=None,
                proxy=None,
            ) as screen:
                log.info("desktop.open", agent_id=view.agent_id, user_id=grant.user_id, mode=grant.mode)
                sides = self._up(viewer, screen, grant), _down(viewer, screen), self._watch(grant)
                await together(*sides, within=self.seconds)
                # None of them ends without saying why.
                raise Closing(Close.RECONNECT, "its time is up; come again with another ticket")
        except (RuntimeFault, WebSocketException, OSError) as error:
            log.warning("desktop.not_reached", agent_id=view.agent_id, error=type(error).__name__)
            raise Closing(Close.TRY_AGAIN, "the agent's screen cannot be reached") from None

    async def _up(self, viewer: WebSocket, screen: ClientConnection, grant: TicketGrant) -> None:
        touched = float("-inf")
        while True:
            event = await viewer.receive()
            if event["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(event.get("code", 1005))
            data = event.get("bytes")
            if not data:
                raise Closing(Close.GARBAGE, "only binary messages")
            used = grant.mode == "control" and data[0] in _INPUT and not said_by_itself(data)
            if used and time.monotonic() - touched > _TOUCH_SECONDS:
                touched = time.monotonic()
                await whole(self._touch(grant))
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await screen.send(data)
            except ConnectionClosed:
                raise Closing(Close.ENDED, "the agent closed its screen") from None

    async def _touch(self, grant: TicketGrant) -> None:
        try:
            async with self._db.transaction() as session:
                await agents.touch(session, grant.agent_id or "", now())
        except DATABASE_AWAY as error:
            log.warning("desktop.not_touched", error=type(error).__name__)

    async def _may_look(self, grant: TicketGrant) -> bool:
        async with self._db.transaction() as session:
            return await _in_view(session, grant) is not None

    async def _watch(self, grant: TicketGrant) -> None:
        """Raise when the viewer may look no longer."""
        agent_id = grant.agent_id or ""
        with self._listener.subscribe((Wake.CHANNEL, agent_id), (Wake.EVENTS, grant.user_id)) as news:
            while True:
                try:
                    may_look = await whole(self._may_look(grant))
                except DATABASE_AWAY as error:
                    log.warning("desktop.not_checked", error=type(error).__name__)
                else:
                    if not may_look:
                        raise Closing(Close.ENDED, "the agent has ended")
                await news.wait(_LOOK_SECONDS)


async def _down(viewer: WebSocket, screen: ClientConnection) -> None:
    try:
        async for data in screen:
            async with asyncio.timeout(SEND_SECONDS):
                await viewer.send_bytes(data if isinstance(data, bytes) else data.encode())
    except ConnectionClosed:
        pass
    except TimeoutError:
        raise Closing(Close.SLOW, "too slow") from None
    raise Closing(Close.ENDED, "the agent closed its screen")


async def _in_view(session: AsyncSession, grant: TicketGrant) -> AgentView | None:
    """The agent that a ticket is of; None when its viewer may look at it no longer.

    Who was put out of its project may while it drains, as its user.
    """
    view = await agents.get(session, grant.agent_id or "")
    if view is None or (view.user_id, view.attempt) != (grant.user_id, grant.attempt) or view.state not in VIEWABLE:
        return None
    if view.state is AgentState.DRAINING or await projects.is_member(session, view.project_id, grant.user_id):
        return view
    return None


def _screen_url(desktop_url: str, mode: str) -> str:
    parts = urlsplit(desktop_url)
    scheme = "wss" if parts.scheme in {"https", "wss"} else "ws"
    return urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/websockify", f"mode={mode}", ""))
