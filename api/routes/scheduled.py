"""Starts to come: the caller's list of them, and taking one back."""

from typing import Annotated

from fastapi import APIRouter, Query

from api import problems
from api.deps import Caller, DepsOf
from api.pagination import Cursor, Limit, Page, seal, unseal
from api.schemas.base import ScheduledIdPath
from api.schemas.scheduled import ScheduledStartBody, scheduled_start_body
from api.services import schedule
from core.db.repositories import scheduled
from core.domain.schedule import ScheduledState
from core.errors import Conflict, NotFound

router = APIRouter(prefix="/api/scheduled-starts", tags=["agents"])

State = Annotated[ScheduledState | None, Query(description="only those in this state")]


@router.get(
    "",
    operation_id="listScheduledStarts",
    summary="Your starts to come and what became of them, the last booked first",
    responses=problems.responses(),
)
async def list_scheduled_starts(
    deps: DepsOf, who: Caller, state: State = None, limit: Limit = 50, cursor: Cursor = None
) -> Page[ScheduledStartBody]:
    place = unseal("scheduled", cursor) if cursor is not None else None
    async with deps.acting(who) as (session, _):
        found, onward = await scheduled.page(session, who.user_id, state=state, limit=limit, cursor=place)
    return Page(
        items=[scheduled_start_body(view) for view in found], next_cursor=seal("scheduled", onward) if onward else None
    )


@router.delete(
    "/{scheduledStartId}",
    operation_id="cancelScheduledStart",
    summary="Take back a start to come",
    responses=problems.responses(NotFound, (Conflict, "wrong_state")),
)
async def cancel_scheduled_start(deps: DepsOf, who: Caller, scheduled_start_id: ScheduledIdPath) -> ScheduledStartBody:
    return scheduled_start_body(await schedule.cancel(deps, who, scheduled_start_id))
