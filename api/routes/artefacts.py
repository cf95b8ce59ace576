"""Artefacts: agents store pictures, documents and their saved work here, their users fetch them."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import ClientDisconnect

from api.deps import Caller, Deps, DepsOf
from api.live.download import Download
from api.live.hub import Live, live_of
from api.problems import problems, responses
from api.routes.channel import Speaker
from api.schemas.artefacts import ENDINGS, ContentType
from core.db.repositories import artefacts, commands
from core.db.repositories.agents import AgentView
from core.db.repositories.artefacts import CHUNK_BYTES, ArtefactView
from core.domain.wire import MAX_ARTEFACT_BYTES, Artefact, saved_work_id
from core.errors import Busy, Conflict, Forbidden, InvalidRequest, NotFound, TooLarge, Unauthenticated, Unavailable
from core.ids import check_id

router = APIRouter()

_PIECE_BYTES = 64 << 10
_KINDS = {kind.value: {"schema": {"type": "string", "format": "binary"}} for kind in ContentType}


@router.put(
    "/agent-artefacts/{commandId}",
    tags=["agents' side"],
    summary="An agent stores what a command made, or the work it saves before it stops",
    # Ours is the limit that is met first, and it says what is too large.
    max_body_size=2 * MAX_ARTEFACT_BYTES,
    openapi_extra={"requestBody": {"required": True, "content": _KINDS}},
    responses=problems(
        Unauthenticated,
        Forbidden,
        NotFound,
        (Conflict, "command_over"),
        (TooLarge, "artefact_too_large"),
        (InvalidRequest, "unsupported_content_type"),
        Unavailable,
    ),
)
async def store(
    command_id: Annotated[str, Path(alias="commandId", max_length=255)],
    request: Request,
    speaking: Speaker,
    live: Annotated[Live, Depends(live_of)],
) -> Artefact:
    """One artefact a command; the same again answers with the one that is there.

    The work that attempt N saves is a zip under its reserved id, `saved N`, for which there is no command.
    """
    who, _ = speaking
    check_id(command_id, "commandId")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _KINDS:
        raise InvalidRequest(f"an artefact is one of {', '.join(_KINDS)}", code="unsupported_content_type")
    if _announced(request) > MAX_ARTEFACT_BYTES:
        raise TooLarge(f"an artefact may have {MAX_ARTEFACT_BYTES} bytes", code="artefact_too_large")
    async with live.deps.db.transaction() as session:
        known = await artefacts.of_command(session, who.agent_id, command_id)
        if known is not None:
            return known.told()
        await _expected(session, who, command_id, ContentType(kind))
    stream, saved = aiter(request.stream()), command_id == saved_work_id(who.attempt)
    try:
        async with (
            live.intray.receive(stream, MAX_ARTEFACT_BYTES, who, saved=saved) as upload,
            live.deps.db.transaction() as session,
        ):
            pieces = upload.chunks(CHUNK_BYTES)
            stored = await artefacts.add(session, who, command_id, kind, upload.size, pieces)
            await artefacts.keep_newest(session, who.agent_id, live.deps.settings.retention.artefact_mib << 20)
            return stored.told()
    except ClientDisconnect:
        raise InvalidRequest("the body ended early", code="upload_stalled") from None


async def _expected(session: AsyncSession, who: AgentView, command_id: str, kind: ContentType) -> None:
    """Raise unless the attempt may store something new under that id now."""
    saved = command_id == saved_work_id(who.attempt)
    if not saved:
        command = await commands.get(session, who.agent_id, command_id)
        if command is None or command.attempt != who.attempt or command.kind != commands.EXECUTE:
            raise NotFound("this agent has no such command")
        if not command.open:
            raise Conflict("the command is over", code="command_over")
    if saved is not (kind is ContentType.ZIP):
        raise InvalidRequest("saved work is a zip, and nothing else is", code="unsupported_content_type")


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0


@router.get(
    "/api/artefacts/{artefactId}",
    tags=["commands"],
    summary="Fetch what a command made",
    response_class=StreamingResponse,
    responses=responses(NotFound, Busy) | {200: {"description": "the bytes", "content": _KINDS}},
)
async def fetch(
    artefact_id: Annotated[str, Path(alias="artefactId", max_length=256)],
    who: Caller,
    deps: DepsOf,
    live: Annotated[Live, Depends(live_of)],
) -> Download:
    """At most 10 of a user's at a time, each for 15 minutes."""
    async with deps.acting(who) as (session, user):
        view = await artefacts.get(session, check_id(artefact_id, "artefactId"), user.user_id)
    if view is None:
        raise NotFound("you have no such artefact")
    name = f"{view.artefact_id}.{ENDINGS[ContentType(view.content_type)]}"
    headers = {
        "Content-Length": str(view.bytes),
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        # What an agent brought home must never act in our name, whatever it calls itself.
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-store",
    }
    return Download(_bytes(deps, view), live.downloading, who.user_id, media_type=view.content_type, headers=headers)


async def _bytes(deps: Deps, view: ArtefactView) -> AsyncIterator[bytes]:
    """Chunk by chunk, each in its own transaction: a slow reader holds no connection."""
    number = 0
    while True:
        async with deps.db.transaction() as session:
            data = await artefacts.chunk(session, view.artefact_id, number)
        if data is None:
            return
        # So little each time that a reader who stops leaves little behind.
        for at in range(0, len(data), _PIECE_BYTES):
            yield data[at : at + _PIECE_BYTES]
        number += 1
