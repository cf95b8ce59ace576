"""`start-agent`: may this user have an agent for this project, and where is it."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse

from api import problems
from api.deps import Caller, DepsOf
from api.schemas.agents import PendingBody, QueuedBody, StartBody, StartedBody
from api.schemas.base import ProjectIdPath
from api.schemas.explain import ExplainBody
from api.schemas.scheduled import ScheduledBody
from api.services import explain
from api.services.start import REFUSALS, Starter, StartReply
from core.errors import Busy, Conflict, InvalidRequest, KeyReused, NotFound, Unavailable

router = APIRouter(tags=["agents"])

_KEY = re.compile(r"[\x20-\x7e]{1,255}")

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 printable ASCII characters. For 24 hours the same key and body give the same answer.",
    ),
]


def checked_key(key: str | None) -> str | None:
    """Raises `InvalidRequest` for a key that cannot be one."""
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidRequest("an Idempotency-Key is 1 to 255 printable ASCII characters")
    return key


def respond(reply: StartReply) -> JSONResponse:
    return JSONResponse(reply.body, reply.status, reply.headers, media_type=reply.media_type)


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": StartedBody, "description": "the agent that lives already"},
    201: {"model": StartedBody, "description": "a new agent"},
    202: {
        "model": QueuedBody | ScheduledBody | PendingBody,
        "description": "waits in the queue, or for its time, or nobody has decided yet",
        "headers": {
            "Location": {"description": "with `pending`: where the agent will appear", "schema": {"type": "string"}},
            "Retry-After": {"description": "with `pending`: seconds", "schema": {"type": "integer"}},
        },
    },
    **problems.responses(
        *REFUSALS,
        NotFound,
        KeyReused,
        (InvalidRequest, "unknown_template"),
        (InvalidRequest, "invalid_start_at"),
        (InvalidRequest, "start_at_too_far"),
        (Conflict, "too_many_scheduled_starts"),
        Busy,
        (Unavailable, "temporal_unavailable"),
    ),
}


@router.post(
    "/api/projects/{projectId}/start-agent",
    operation_id="startAgent",
    summary="Start an agent for a project, now or later, or get the one that lives",
    status_code=201,
    response_model=None,
    responses=_RESPONSES,
)
async def start_agent(
    request: Request, who: Caller, project_id: ProjectIdPath, body: StartBody | None = None, key: Key = None
) -> JSONResponse:
    starter: Starter = request.app.state.starter
    return respond(await starter.start(who, project_id, body or StartBody(), checked_key(key)))


@router.post(
    "/api/projects/{projectId}/explain-start",
    operation_id="explainStart",
    summary="What a start would lead to now, every check with its numbers; changes nothing",
    responses=problems.responses(
        NotFound,
        (InvalidRequest, "unknown_template"),
        (InvalidRequest, "invalid_start_at"),
        (InvalidRequest, "start_at_too_far"),
    ),
)
async def explain_start(
    deps: DepsOf, who: Caller, project_id: ProjectIdPath, body: StartBody | None = None
) -> ExplainBody:
    return await explain.explain(deps, who, project_id, body or StartBody())
