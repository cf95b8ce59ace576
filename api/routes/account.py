"""The caller: account, own queue, tickets for sockets, and the browser profiles of its projects."""

from datetime import timedelta

from fastapi import APIRouter

from api import problems
from api.deps import Caller, DepsOf
from api.schemas.account import ForgottenBody, MeBody, QueueBody, TicketBody
from api.schemas.agents import agent_body
from api.schemas.base import ProjectIdPath
from api.services import profiles
from core.db.repositories import queue, tickets, users
from core.db.repositories.tickets import TicketGrant, TicketKind
from core.errors import Busy, Conflict, NotFound, Unavailable

router = APIRouter(prefix="/api", tags=["account"])

_TICKET_LASTS = timedelta(seconds=60)


@router.get("/me", operation_id="me", summary="Who you are, and what you may have", responses=problems.responses())
async def me(deps: DepsOf, who: Caller) -> MeBody:
    async with deps.acting(who) as (session, user):
        return MeBody(
            user_id=user.user_id,
            email=user.email,
            role=who.role,
            tier=user.tier,
            limit=deps.settings.tiers.of(user.tier),
            used=await users.living_agents(session, user.user_id),
            subscription_active_until=user.subscription_active_until,
            projects=await users.projects_of(session, user.user_id),
        )


@router.get("/queue", operation_id="queue", summary="Your waiting agents", responses=problems.responses())
async def own_queue(deps: DepsOf, who: Caller) -> QueueBody:
    async with deps.acting(who) as (session, user):
        waiting = await queue.waiting_of_user(session, user.user_id)
        shown = await queue.all_with_wait(session, waiting, deps.settings.rules())
    return QueueBody(items=[agent_body(view) for view in shown])


@router.post(
    "/ticket",
    operation_id="ticket",
    summary="A ticket for /ws/events",
    responses=problems.responses(Busy),
)
async def ticket(deps: DepsOf, who: Caller) -> TicketBody:
    now = deps.clock()
    async with deps.acting(who) as (session, user):
        grant = TicketGrant(kind=TicketKind.EVENTS, user_id=user.user_id)
        fresh = await tickets.issue(session, grant, now, _TICKET_LASTS)
    return TicketBody(ticket=fresh.get_secret_value(), expires_at=now + _TICKET_LASTS)


@router.delete(
    "/projects/{projectId}/profile",
    operation_id="forgetProfile",
    summary="Forget cookies and storage of your browser in a project",
    status_code=202,
    responses=problems.responses(NotFound, (Conflict, "agent_lives"), (Unavailable, "runtime_unavailable")),
)
async def forget_profile(deps: DepsOf, who: Caller, project_id: ProjectIdPath) -> ForgottenBody:
    await profiles.forget(deps, who, project_id)
    return ForgottenBody(project_id=project_id)
