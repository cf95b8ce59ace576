"""The user's event stream."""

import contextlib
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, WebSocket

from api.live.feed import Feed, place_of
from api.live.hub import Live, live_of
from api.live.origins import check_origin
from api.live.ports import DATABASE_AWAY, now
from api.problems import answer
from core.db.repositories import tickets, users
from core.db.repositories.tickets import TicketKind
from core.errors import BerthError, Unauthenticated, Unavailable

log = structlog.get_logger()

router = APIRouter()


@router.websocket("/ws/events")
async def events(
    socket: WebSocket,
    ticket: Annotated[str | None, Query()] = None,
    after: Annotated[str | None, Query()] = None,
) -> None:
    """Every event of one's agents. `after` takes the `cursor` of the last one seen and replays what came since."""
    live = live_of(socket)
    with contextlib.ExitStack() as seat:
        try:
            check_origin(socket, live.deps.settings.public_url())
            # Before the ticket is used up: a mistake here shall not cost it.
            place = None if after is None else place_of(after)
            user_id = await _who(live, socket, ticket)
            seat.enter_context(live.seats.take(user_id))
        except BerthError as error:
            await socket.send_denial_response(answer(error))
            return
        except DATABASE_AWAY as error:
            log.warning("feed.database_away", error=type(error).__name__)
            await socket.send_denial_response(answer(Unavailable("the database does not answer right now")))
            return
        await socket.accept()
        await _feed(live, socket, user_id, place).serve()


async def _who(live: Live, socket: WebSocket, ticket: str | None) -> str:
    """The caller, by bearer token or by a ticket, which is used up. Raises `Unauthenticated`, `NotFound`."""
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        user_id = (await live.deps.verifier.verify(token.strip())).user_id
    elif ticket:
        async with live.deps.db.transaction() as session:
            grant = await tickets.consume(session, ticket, TicketKind.EVENTS, now())
        if grant is None:
            raise Unauthenticated("the ticket is unknown, used or expired", action="ask_for_a_ticket")
        user_id = grant.user_id
    else:
        raise Unauthenticated("a bearer token or a ticket is needed")
    async with live.deps.db.transaction() as session:
        await users.require(session, user_id)
    return user_id


def _feed(live: Live, socket: WebSocket, user_id: str, place: int | None) -> Feed:
    return Feed(
        socket,
        user_id,
        place,
        db=live.deps.db,
        listener=live.listener,
        positions=live.positions,
        lifetime_seconds=live.user_socket_seconds,
    )
