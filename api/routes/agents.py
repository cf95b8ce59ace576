"""Agents: the list, one of them, its life so far, and the orders its user may give."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api import problems
from api.deps import Caller, DepsOf
from api.pagination import Cursor, Limit, Page, seal, unseal
from api.routes.start import Key, checked_key, respond
from api.schemas.agents import (
    AgentBody,
    EventBody,
    OneAgentBody,
    PendingBody,
    QueuedBody,
    StartBody,
    StartedBody,
    StopBody,
    agent_body,
    event_body,
    one_agent_body,
)
from api.schemas.base import AgentIdPath, ProjectIdText
from api.services import orders
from api.services.access import readable_agent
from api.services.start import REFUSALS, Starter
from core.db.repositories import agents, artefacts, events, queue
from core.domain.lifecycle import AgentState
from core.errors import Conflict, InvalidRequest, NotFound, Unavailable

router = APIRouter(prefix="/api/agents", tags=["agents"])

_ONE = problems.responses(NotFound)
_ORDERED: tuple[problems.type_or_code, ...] = (
    NotFound,
    (Conflict, "wrong_state"),
    (Unavailable, "temporal_unavailable"),
)
_ORDER = problems.responses(*_ORDERED)

State = Annotated[AgentState | None, Query(description="only agents in this state")]
OfProject = Annotated[ProjectIdText | None, Query(alias="projectId", description="only agents of this project")]


@router.get("", operation_id="listAgents", summary="Your agents, newest first", responses=problems.responses())
async def list_agents(
    deps: DepsOf,
    who: Caller,
    state: State = None,
    project_id: OfProject = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[OneAgentBody]:
    place = unseal("agents", cursor) if cursor is not None else None
    async with deps.acting(who) as (session, _):
        found, onward = await agents.page(
            session, who.user_id, state=state, project_id=project_id, limit=limit, cursor=place
        )
        shown = await queue.all_with_wait(session, await agents.with_since(session, found), deps.settings.rules())
        saved = await artefacts.saved_works(session, [view.agent_id for view in found])
    items = [one_agent_body(view, saved.get(view.agent_id, [])) for view in shown]
    return Page(items=items, next_cursor=seal("agents", onward) if onward else None)


@router.get("/{agentId}", operation_id="getAgent", summary="One agent", responses=_ONE)
async def get_agent(deps: DepsOf, who: Caller, agent_id: AgentIdPath) -> OneAgentBody:
    async with deps.acting(who) as (session, _):
        view = await readable_agent(session, who, agent_id)
        saved = await artefacts.saved_work(session, view.agent_id)
        (dated,) = await agents.with_since(session, [view])
        shown = await queue.with_wait(session, dated, deps.settings.rules())
    return one_agent_body(shown, saved)


@router.get("/{agentId}/events", operation_id="listAgentEvents", summary="The life, oldest first", responses=_ONE)
async def list_events(
    deps: DepsOf, who: Caller, agent_id: AgentIdPath, limit: Limit = 100, cursor: Cursor = None
) -> Page[EventBody]:
    after = _seq(cursor, agent_id)
    async with deps.acting(who) as (session, _):
        view = await readable_agent(session, who, agent_id)
        found = await events.of_agent(session, view.agent_id, after, limit + 1)
    onward = seal("events", f"{agent_id} {found[limit - 1].seq}") if len(found) > limit else None
    return Page(items=[event_body(event) for event in found[:limit]], next_cursor=onward)


def _seq(cursor: str | None, agent_id: str) -> int:
    if cursor is None:
        return 0
    of, _, seq = unseal("events", cursor).rpartition(" ")
    if of != agent_id or not seq.isdecimal() or len(seq) > 9:
        raise InvalidRequest("the cursor is not one that Berth gave for this list")
    return int(seq)


@router.post(
    "/{agentId}/stop",
    operation_id="stopAgent",
    summary="Stop it, or leave the queue",
    status_code=202,
    responses=_ORDER,
)
async def stop_agent(deps: DepsOf, who: Caller, agent_id: AgentIdPath, body: StopBody | None = None) -> AgentBody:
    return agent_body(await orders.stop(deps, who, agent_id, (body or StopBody()).grace_seconds))


@router.post("/{agentId}/keep", operation_id="keepAgent", summary="Take back the warning", responses=_ORDER)
async def keep_agent(deps: DepsOf, who: Caller, agent_id: AgentIdPath) -> AgentBody:
    return agent_body(await orders.keep(deps, who, agent_id))


@router.post(
    "/{agentId}/restart",
    operation_id="restartAgent",
    summary="Restart it; of a failed one, a new life with a new id",
    status_code=202,
    response_model=None,
    responses={
        **problems.responses(
            *_ORDERED,
            (Unavailable, "workflow_gone"),
            *REFUSALS,
            (InvalidRequest, "unknown_template"),
        ),
        202: {
            "model": AgentBody | QueuedBody | PendingBody,
            "description": "restarts; or a failed agent's new life waits",
        },
        200: {"model": StartedBody, "description": "a failed agent's project has a living one already"},
        201: {"model": StartedBody, "description": "a new life after a failed one"},
    },
)
async def restart_agent(
    request: Request, deps: DepsOf, who: Caller, agent_id: AgentIdPath, key: Key = None
) -> JSONResponse:
    key = checked_key(key)
    view, anew = await orders.restart(deps, who, agent_id, key)
    if not anew:
        return JSONResponse(agent_body(view).model_dump(mode="json", by_alias=True), 202)
    starter: Starter = request.app.state.starter
    body = StartBody.model_validate({"template": view.template})
    # A key of its own: the same words may have been a key of start-agent, for another life.
    own = key and f"restart-{hashlib.sha256(f'{agent_id} {key}'.encode()).hexdigest()}"
    return respond(await starter.start(who, view.project_id, body, own))


@router.post("/{agentId}/activity", operation_id="noteActivity", summary="The user is there", responses=_ORDER)
async def note_activity(deps: DepsOf, who: Caller, agent_id: AgentIdPath) -> AgentBody:
    return agent_body(await orders.note_activity(deps, who, agent_id))
