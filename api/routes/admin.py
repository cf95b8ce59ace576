"""For administrators: users, projects, everyone's agents, pools."""

from typing import Annotated

from fastapi import APIRouter, Query

from api import problems
from api.deps import DepsOf, Operator
from api.pagination import Cursor, Limit, Page, seal, unseal
from api.routes.agents import OfProject, State
from api.schemas.admin import (
    PoolBody,
    PoolPut,
    PoolsBody,
    ProjectBody,
    ProjectPut,
    ReportBody,
    ResizeBody,
    TerminateBody,
    UserBody,
    UserPut,
)
from api.schemas.agents import AgentBody, agent_body
from api.schemas.base import AgentIdPath, PoolPath, ProjectIdPath, UserIdPath, UserIdText
from api.schemas.maintenance import MaintenanceBody, MaintenancePost
from api.services import admin, alterations, maintenance
from core.db.repositories import agents, queue
from core.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable

router = APIRouter(prefix="/api/admin", tags=["admin"])

_TEMPORAL = (Unavailable, "temporal_unavailable")


@router.put(
    "/users/{userId}",
    operation_id="putUser",
    summary="Make or change a user; an expired subscription drains the user's agents",
    responses=problems.responses(Forbidden, _TEMPORAL),
)
async def put_user(deps: DepsOf, who: Operator, user_id: UserIdPath, body: UserPut) -> UserBody:
    record = await admin.put_user(deps, who, user_id, body)
    return UserBody.model_validate(record.model_dump())


@router.put(
    "/projects/{projectId}",
    operation_id="putProject",
    summary="Set a project's members; agents of those who left drain",
    responses=problems.responses(Forbidden, (InvalidRequest, "unknown_members"), _TEMPORAL),
)
async def put_project(deps: DepsOf, who: Operator, project_id: ProjectIdPath, body: ProjectPut) -> ProjectBody:
    return ProjectBody(project_id=project_id, members=await admin.put_project(deps, who, project_id, body.members))


@router.get(
    "/agents",
    operation_id="listAllAgents",
    summary="Everyone's agents, newest first",
    responses=problems.responses(Forbidden),
)
async def list_all_agents(
    deps: DepsOf,
    who: Operator,
    state: State = None,
    project_id: OfProject = None,
    user_id: Annotated[UserIdText | None, Query(alias="userId", description="only agents of this user")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[AgentBody]:
    place = unseal("agents", cursor) if cursor is not None else None
    async with deps.acting(who) as (session, _):
        found, onward = await agents.page(
            session, user_id, state=state, project_id=project_id, limit=limit, cursor=place
        )
        shown = await queue.all_with_wait(session, await agents.with_since(session, found), deps.settings.rules())
    return Page(items=[agent_body(view) for view in shown], next_cursor=seal("agents", onward) if onward else None)


@router.post(
    "/agents/{agentId}/terminate",
    operation_id="terminateAgent",
    summary="Stop anyone's agent",
    status_code=202,
    responses=problems.responses(Forbidden, NotFound, (Conflict, "wrong_state"), _TEMPORAL),
)
async def terminate(deps: DepsOf, who: Operator, agent_id: AgentIdPath, body: TerminateBody | None = None) -> AgentBody:
    return agent_body(await admin.terminate(deps, who, agent_id, body or TerminateBody()))


@router.get(
    "/agents/{agentId}/report",
    operation_id="getAgentReport",
    summary="What an agent last told of itself: health, memory, bandwidth",
    responses=problems.responses(Forbidden, NotFound, (NotFound, "no_report")),
)
async def get_report(deps: DepsOf, who: Operator, agent_id: AgentIdPath) -> ReportBody:
    return await admin.report(deps, who, agent_id)


_ALTERED: tuple[problems.type_or_code, ...] = (
    Forbidden,
    NotFound,
    (Conflict, "wrong_state"),
    (Conflict, "order_refused"),
    (Unavailable, "runtime_unavailable"),
    (Unavailable, "worker_silent"),
    _TEMPORAL,
)


@router.post(
    "/agents/{agentId}/resize",
    operation_id="resizeAgent",
    summary="Give a running agent other limits, without a restart",
    description="In force from now on, for its later attempts too. Its requests, by which it is placed, stay. "
    "`agent.resized` among its events tells what was and is; reason `deferred` when its machine does it later.",
    status_code=202,
    responses=problems.responses(*_ALTERED, (InvalidRequest, "size_out_of_range")),
)
async def resize(deps: DepsOf, who: Operator, agent_id: AgentIdPath, body: ResizeBody) -> AgentBody:
    return agent_body(await alterations.resize(deps, who, agent_id, body))


@router.post(
    "/agents/{agentId}/migrate",
    operation_id="migrateAgent",
    summary="Move a running agent to another machine, its profile kept",
    description="Its user is warned, it saves, and its next attempt begins elsewhere: the same agent with a new "
    "desktop. Refused, with why, when no other machine would take it or its profile could not follow.",
    status_code=202,
    responses=problems.responses(*_ALTERED),
)
async def migrate(deps: DepsOf, who: Operator, agent_id: AgentIdPath) -> AgentBody:
    return agent_body(await alterations.migrate(deps, who, agent_id))


@router.post(
    "/maintenance",
    operation_id="orderMaintenance",
    summary="Empty a pool or a machine, with a warning, now or in time for what is to come",
    description="Each agent there drains with reason `maintenance`: its user is warned, it saves, and it is gone by "
    "`startsAt`, or later where it would have had less than its grace. Who waits in line stays. Nobody is kept from "
    "moving in: pause the pool before it, or cordon the machine.",
    status_code=202,
    responses=problems.responses(Forbidden, NotFound, (InvalidRequest, "starts_at_too_far"), _TEMPORAL),
)
async def order_maintenance(deps: DepsOf, who: Operator, body: MaintenancePost) -> MaintenanceBody:
    return await maintenance.order(deps, who, body)


@router.get("/pools", operation_id="listPools", summary="All pools", responses=problems.responses(Forbidden))
async def list_pools(deps: DepsOf, who: Operator) -> PoolsBody:
    return PoolsBody(items=await admin.pools(deps, who))


@router.get(
    "/pools/{pool}",
    operation_id="getPool",
    summary="Holders, waiting, capacity and where it comes from",
    responses=problems.responses(Forbidden, NotFound),
)
async def get_pool(deps: DepsOf, who: Operator, pool: PoolPath) -> PoolBody:
    return await admin.pool_status(deps, who, pool)


@router.put(
    "/pools/{pool}",
    operation_id="putPool",
    summary="Change a pool's capacity, or pause it",
    responses=problems.responses(Forbidden, NotFound, _TEMPORAL),
)
async def put_pool(deps: DepsOf, who: Operator, pool: PoolPath, body: PoolPut) -> PoolBody:
    return await admin.put_pool(deps, who, pool, body)
