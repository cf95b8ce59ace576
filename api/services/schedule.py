"""Starts to come: booked by start-agent, listed and taken back by their user."""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Identity
from api.deps import Deps, Lives
from api.schemas.scheduled import ScheduledBody
from core.db.repositories import idempotency, scheduled
from core.db.repositories.idempotency import KeyedBy
from core.db.repositories.scheduled import ScheduledView
from core.domain.schedule import Later, Now, ScheduledState, ScheduleReason, TooFar, when
from core.errors import Conflict, InvalidRequest, NotFound, Unavailable

log = structlog.get_logger()


def later(start_at: datetime | None, now: datetime) -> datetime | None:
    """When to start, None for now. Raises `InvalidRequest` (`start_at_too_far`)."""
    match when(start_at, now):
        case Now():
            return None
        case Later(at=at):
            return at
        case TooFar(latest=latest):
            raise InvalidRequest(
                "a start is scheduled at most 30 days ahead", code="start_at_too_far", latest=latest.isoformat()
            )


async def keep_answer(session: AsyncSession, by: KeyedBy, booked: ScheduledView) -> None:
    """Keep the answer under the key until a day after it is due: whoever asks again when it ran must not book anew."""
    await idempotency.store(session, by, None, 202, answer_of(booked), since=booked.start_at)


def answer_of(booked: ScheduledView) -> dict[str, Any]:
    body = ScheduledBody(scheduled_start_id=booked.scheduled_start_id, start_at=booked.start_at)
    return body.model_dump(mode="json", by_alias=True)


async def begin(lives: Lives, booked: ScheduledView) -> None:
    """Have a run wait for it. It is promised by its row: while Temporal is away, the reaper sees to that later."""
    try:
        await lives.scheduled.begin(booked)
    except Unavailable as away:
        log.warning("schedule.not_begun", scheduled_start_id=booked.scheduled_start_id, code=away.error_code)


async def cancel(deps: Deps, who: Identity, scheduled_start_id: str) -> ScheduledView:
    """Take it back; again does no harm. Raises `NotFound`, `Conflict` (`wrong_state`) once its start is under way."""
    async with deps.acting(who) as (session, _):
        found = await scheduled.get(session, scheduled_start_id)
        if found is None or found.user_id != who.user_id:
            raise NotFound("you have no such scheduled start")
        found = await scheduled.withdraw(session, scheduled_start_id, ScheduleReason.WITHDRAWN, deps.clock()) or found
    if found.state is not ScheduledState.CANCELLED:
        raise Conflict(
            f"the scheduled start is {found.state.value}: it cannot be taken back",
            code="wrong_state",
            state=found.state.value,
            agent_id=found.agent_id,
        )
    try:
        await deps.lives.scheduled.withdraw(scheduled_start_id)
    except Unavailable as away:
        # Its run finds the row cancelled when it wakes.
        log.info("schedule.run_stays", scheduled_start_id=scheduled_start_id, code=away.error_code)
    return found
