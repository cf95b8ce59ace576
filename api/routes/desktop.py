"""The agent's desktop: a one-time ticket, the viewer page, and the socket behind it."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import structlog
from fastapi import APIRouter, Body, Response, WebSocket
from fastapi.responses import FileResponse
from starlette.websockets import WebSocketDisconnect

from api.deps import Caller, DepsOf
from api.live.calls import not_ready
from api.live.desktop import TICKET_LIFETIME, VIEWABLE
from api.live.hub import Live, live_of
from api.live.limits import Close, Closing
from api.live.origins import check_origin
from api.live.ports import DATABASE_AWAY, now
from api.problems import answer, responses
from api.schemas.base import AgentIdPath
from api.schemas.desktop import DesktopAnswer, DesktopBody
from api.services.access import own_agent
from core.db.repositories import projects, tickets
from core.db.repositories.tickets import TicketGrant, TicketKind
from core.domain.lifecycle import AgentState
from core.errors import BerthError, Busy, Conflict, NotFound

log = structlog.get_logger()

router = APIRouter()

PROTOCOL = "berth.desktop"
_TICKET = "ticket."
_WEB = Path(__file__).resolve().parent.parent / "web"
_PAGE = {"": "desktop.html", "desktop.js": "desktop.js", "desktop.css": "desktop.css"}
_NOVNC = Path(__file__).resolve().parents[2] / "node_modules" / "@novnc" / "novnc"
_NOVNC_PARTS = frozenset({"core", "vendor", "docs", "LICENSE.txt", "AUTHORS"})
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Framed by our own dashboard only. noVNC draws cursors from data addresses and sets styles by script.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@router.post(
    "/api/agents/{agentId}/desktop",
    tags=["agents"],
    summary="A link to the agent's desktop that works once",
    responses=responses(NotFound, (Conflict, "agent_not_ready"), Busy),
)
async def ask(
    agent_id: AgentIdPath,
    who: Caller,
    deps: DepsOf,
    body: Annotated[DesktopBody | None, Body()] = None,
) -> DesktopAnswer:
    mode = (body or DesktopBody()).mode
    at = now()
    async with deps.acting(who) as (session, user):
        view = await own_agent(session, who, agent_id)
        if view.state is not AgentState.DRAINING:
            # While it drains, its user may still save by hand, also one who has left the project.
            await projects.require_member(session, view.project_id, user.user_id)
        if view.state not in VIEWABLE:
            raise not_ready(view)
        grant = TicketGrant(
            kind=TicketKind.DESKTOP, user_id=user.user_id, agent_id=agent_id, attempt=view.attempt, mode=mode.value
        )
        ticket = await tickets.issue(session, grant, at, TICKET_LIFETIME)
    # Behind the hash, so that it is sent to no server and stands in no log.
    fragment = urlencode({"ticket": ticket.get_secret_value(), "mode": mode.value})
    return DesktopAnswer(url=f"{deps.settings.public_url()}/desktop/#{fragment}", expires_at=at + TICKET_LIFETIME)


@router.get("/desktop/{name}", include_in_schema=False)
async def page(name: str) -> Response:
    return _file(_WEB, _PAGE[name]) if name in _PAGE and name else _missing()


@router.get("/desktop/", include_in_schema=False)
async def index() -> Response:
    return _file(_WEB, _PAGE[""])


@router.get("/static/novnc/{path:path}", include_in_schema=False)
async def novnc(path: str) -> Response:
    """The viewer's library as its makers ship it, licence included."""
    if path.partition("/")[0] not in _NOVNC_PARTS:
        return _missing()
    return _file(_NOVNC, path)


def _file(folder: Path, name: str) -> Response:
    if "\x00" in name:
        return _missing()
    path = (folder / name).resolve()
    try:
        found = path.is_relative_to(folder.resolve()) and path.is_file()
    except OSError:
        # A name that is too long for a file system.
        found = False
    if not found:
        return _missing()
    return FileResponse(path, media_type=_KINDS.get(path.suffix, "text/plain"), headers=_HEADERS)


def _missing() -> Response:
    return answer(NotFound("there is nothing here"))


@router.websocket("/desktop/ws")
async def socket(viewer: WebSocket) -> None:
    """The ticket travels as a subprotocol, `ticket.<ticket>`, beside `berth.desktop`, and so stands in no log."""
    live = live_of(viewer)
    try:
        check_origin(viewer, live.deps.settings.public_url())
    except BerthError as error:
        await viewer.send_denial_response(answer(error))
        return
    offered = viewer.scope.get("subprotocols", [])
    ticket = next((item.removeprefix(_TICKET) for item in offered if item.startswith(_TICKET)), "")
    # A page cannot see why a handshake failed, so it is accepted first and told by the close code.
    await viewer.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    try:
        await _view(live, viewer, ticket)
    except WebSocketDisconnect:
        return
    except Closing as closing:
        await _close(viewer, closing.code, closing.reason)
    except Busy as busy:
        await _close(viewer, Close.TRY_AGAIN, busy.detail)
    except DATABASE_AWAY as error:
        log.warning("desktop.database_away", error=type(error).__name__)
        await _close(viewer, Close.TRY_AGAIN, "try again")


async def _view(live: Live, viewer: WebSocket, ticket: str) -> None:
    grant, view = await live.desktops.admit(ticket)
    with live.seats.take(grant.user_id):
        await live.desktops.carry(viewer, grant, view)


async def _close(viewer: WebSocket, code: Close, reason: str) -> None:
    try:
        await viewer.close(code, reason)
    except (WebSocketDisconnect, RuntimeError):
        log.info("desktop.gone")
