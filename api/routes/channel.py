"""The agents' own doors: the socket, and the same by HTTP for agents that cannot hold one."""

from collections.abc import AsyncIterator
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, WebSocket
from starlette.requests import HTTPConnection

from api.credentials import agent_token
from api.live.channel import AgentSocket
from api.live.hub import Live, live_of
from api.live.ports import DATABASE_AWAY
from api.problems import answer, problems
from core.db.repositories import channels
from core.db.repositories.agents import AgentView
from core.db.repositories.channels import Superseded
from core.domain.wire import Ack, HeartbeatBody, RegisterBody
from core.errors import (
    BerthError,
    Busy,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from core.tokens import hash_token

log = structlog.get_logger()

router = APIRouter(tags=["agents' side"])

_REFUSALS = problems(Unauthenticated, NotFound, Forbidden, Conflict, InvalidRequest, TooLarge, Unavailable, Busy)


async def speaker(connection: HTTPConnection) -> tuple[AgentView, str]:
    """The agent whose token the request carries, and the token's hash.

    Raises `Unauthenticated` for a token that is unknown or whose attempt is over, and `Forbidden` to a page.
    """
    token_hash = hash_token(agent_token(connection))
    async with live_of(connection).deps.db.transaction() as session:
        who = await channels.speaker(session, token_hash)
    if who is None:
        raise Unauthenticated("no living agent has this token")
    return who, token_hash


async def reporter(connection: HTTPConnection) -> AsyncIterator[tuple[AgentView, str]]:
    """The same, for what locks the agent's row: each waiting one has a connection to the database. Raises `Busy` too.

    Seated before the database is asked anything, so that whoever knocks a thousand times costs others nothing.
    """
    with live_of(connection).reporting.take(hash_token(agent_token(connection))):
        yield await speaker(connection)


Speaker = Annotated[tuple[AgentView, str], Depends(speaker)]
# The seat is free before the answer is sent: the next report may come as soon as that is read.
Reporting = Annotated[tuple[AgentView, str], Depends(reporter, scope="function")]
LiveOf = Annotated[Live, Depends(live_of)]


@router.websocket("/ws/agent")
async def channel(socket: WebSocket) -> None:
    live = live_of(socket)
    try:
        with live.knocking.take(hash_token(agent_token(socket))):
            who, token_hash = await speaker(socket)
    except BerthError as error:
        await socket.send_denial_response(answer(error))
        return
    except DATABASE_AWAY:
        # Not a refusal: the agent shall come again.
        await socket.send_denial_response(answer(Unavailable("the database does not answer right now")))
        return
    await socket.accept()
    timings = live.deps.settings.timings_of_living(who.template)
    agent = AgentSocket(
        socket,
        who,
        token_hash,
        db=live.deps.db,
        listener=live.listener,
        intake=live.intake,
        replica=live.replica,
        stale_seconds=2 * timings.heartbeat_seconds,
        volume=live.volumes.of(token_hash),
    )
    with live.speaking.take(token_hash) as displaced:
        await agent.serve(displaced)


@router.post("/agent-register", summary="An agent without a socket reports itself", responses=_REFUSALS)
async def register(body: RegisterBody, speaking: Reporting, live: LiveOf) -> Ack:
    """Does what `agent_online` does, and says what was heard last."""
    who, token_hash = speaking
    _same(who, body.agent_id)
    if body.attempt != who.attempt:
        raise Unauthenticated("the token is of another attempt")
    try:
        return Ack(seq=await live.intake.register(who, token_hash))
    except Superseded:
        raise Unauthenticated("this attempt is over") from None


@router.post("/agent-heartbeat", summary="An agent without a socket says how it is", responses=_REFUSALS)
async def heartbeat(body: HeartbeatBody, speaking: Reporting, live: LiveOf) -> Ack:
    """Stored once a second, and at once when the agent is in another state than before."""
    who, token_hash = speaking
    _same(who, body.agent_id)
    status = body.health.status
    if (known := live.beats.known(token_hash, status)) is not None:
        return Ack(seq=known)
    try:
        seq = await live.intake.heartbeat(who, None, body.health)
    except Superseded:
        raise Conflict("register first") from None
    live.beats.stored(token_hash, status, seq)
    return Ack(seq=seq)


def _same(who: AgentView, agent_id: str) -> None:
    if agent_id != who.agent_id:
        raise Forbidden("the token is another agent's")
