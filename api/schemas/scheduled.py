"""Starts to come, as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.schemas.base import EXAMPLE_AGENT_ID, EXAMPLE_SCHEDULED_ID, EXAMPLE_TIME, Answered
from core.db.repositories.scheduled import ScheduledView
from core.domain.schedule import ScheduledState


class ScheduledBody(Answered):
    """There is no agent until it is due, and no quota is held for it. `startAt` is in UTC."""

    status: Literal["scheduled"] = "scheduled"
    scheduled_start_id: str = Field(examples=[EXAMPLE_SCHEDULED_ID])
    start_at: datetime = Field(examples=[EXAMPLE_TIME])


class ScheduledStartBody(Answered):
    """One start to come, or what became of it. `started` says that the request was made: the agent may wait in line."""

    scheduled_start_id: str = Field(examples=[EXAMPLE_SCHEDULED_ID])
    project_id: str = Field(examples=["shop"])
    template: str | None = Field(None, description="null is the default one of that time")
    start_at: datetime = Field(examples=[EXAMPLE_TIME])
    state: ScheduledState = Field(examples=[ScheduledState.SCHEDULED])
    reason: str | None = Field(None, description="why it was rejected or cancelled, or what it waits for when due")
    agent_id: str | None = Field(None, examples=[EXAMPLE_AGENT_ID], description="with started: the agent")
    created_at: datetime = Field(examples=[EXAMPLE_TIME])
    ended_at: datetime | None = None


def scheduled_start_body(view: ScheduledView) -> ScheduledStartBody:
    return ScheduledStartBody(**{name: getattr(view, name) for name in ScheduledStartBody.model_fields})
