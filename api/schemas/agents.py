"""Agents and their events as the API shows them, and what may be asked of one."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.schemas.base import EXAMPLE_AGENT_ID, EXAMPLE_TIME, Answered, Asked, Due
from core.db.repositories.agents import AgentView
from core.domain.events import Event, EventKind
from core.domain.lifecycle import AgentState
from core.domain.timings import MOST_GRACE_SECONDS
from core.domain.wire import SavedWork


class Connections(Answered):
    """Paths of this API where the agent is watched, steered and followed. They hold no secrets."""

    desktop: str = Field(examples=[f"/api/agents/{EXAMPLE_AGENT_ID}/desktop"])
    execute: str = Field(examples=[f"/api/agents/{EXAMPLE_AGENT_ID}/execute"])
    events: str = Field(examples=[f"/api/agents/{EXAMPLE_AGENT_ID}/events"])


class AgentBody(Answered):
    """One agent. `position` and the wait are there while it waits; `deadlineAt` while a grace or a start runs."""

    agent_id: str = Field(examples=[EXAMPLE_AGENT_ID])
    user_id: str = Field(examples=["ada"])
    project_id: str = Field(examples=["shop"])
    template: str = Field(examples=["default"])
    pool: str = Field(examples=["default"])
    runtime: str = Field(examples=["process"])
    state: AgentState = Field(examples=[AgentState.RUNNING])
    reason: str | None = Field(None, description="why it waits, drains or ended")
    restart_count: int = 0
    position: int | None = Field(None, description="place in the queue, 1 is next")
    estimated_wait_minutes: int | None = None
    created_at: datetime = Field(examples=[EXAMPLE_TIME])
    started_at: datetime | None = None
    ready_at: datetime | None = None
    last_activity_at: datetime
    deadline_at: datetime | None = None
    ended_at: datetime | None = None
    state_since: datetime | None = Field(None, description="since when it is in its state; in lists and of one agent")
    keepable: bool = Field(False, description="whether `keep` would take the warning back now")
    connections: Connections | None = Field(None, description="null once the life is over")


class OneAgentBody(AgentBody):
    """An agent that was asked for, with what it left to its user."""

    saved_work: list[SavedWork] = Field(
        description="what the last five attempts saved that were told to stop, the newest first: what fitted of open "
        "task, downloads and files, as a zip; its `manifest.json` names what did not"
    )


def connections_of(view: AgentView) -> Connections | None:
    if view.over:
        return None
    path = f"/api/agents/{view.agent_id}"
    return Connections(desktop=f"{path}/desktop", execute=f"{path}/execute", events=f"{path}/events")


def agent_body(view: AgentView) -> AgentBody:
    return AgentBody(**_shown(view), connections=connections_of(view))


def one_agent_body(view: AgentView, saved: list[SavedWork]) -> OneAgentBody:
    return OneAgentBody(**_shown(view), connections=connections_of(view), saved_work=saved)


def _shown(view: AgentView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in AgentBody.model_fields if name != "connections"}


class EventBody(Answered):
    """One fact of a life. `seq` counts from 1 without a gap."""

    seq: int
    at: datetime = Field(examples=[EXAMPLE_TIME])
    kind: EventKind = Field(examples=[EventKind.READY])
    state: AgentState | None
    reason: str | None
    detail: dict[str, Any]


def event_body(event: Event) -> EventBody:
    return EventBody(
        seq=event.seq or 0,
        at=event.at,
        kind=event.kind,
        state=event.state,
        reason=event.reason,
        detail=event.detail,
    )


class StartBody(Asked):
    """May be left out altogether."""

    template: str | None = Field(None, min_length=1, max_length=256, examples=["default"])
    start_at: Due = Field(
        None,
        examples=["2026-12-01T09:00:00+01:00"],
        description="when to start it: ISO 8601 with a zone, at most 30 days ahead; a time that has passed is now",
    )


class StartedBody(Answered):
    """201 for a new agent, 200 for the one that lives already."""

    status: Literal["created"] = "created"
    agent: AgentBody
    connections: Connections | None


class WaitRange(Answered):
    """Minutes."""

    low: int
    high: int


class QueuedBody(Answered):
    status: Literal["queued"] = "queued"
    agent_id: str = Field(examples=[EXAMPLE_AGENT_ID])
    position: int = Field(examples=[3])
    estimated_wait_minutes: int = Field(examples=[12])
    estimated_wait: WaitRange
    reason: str | None = Field(examples=["queue_ahead"])


class PendingBody(Answered):
    """No worker answered within 5 s. The request is safe; ask again with the same Idempotency-Key for its answer."""

    status: Literal["pending"] = "pending"


class StopBody(Asked):
    """May be left out: then there is no grace, as it is the user's own stop."""

    grace_seconds: float = Field(0, ge=0, le=MOST_GRACE_SECONDS, allow_inf_nan=False, strict=True)
