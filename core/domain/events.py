"""The event log of a life: kinds, and the value that readers get."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from core.domain.lifecycle import AgentState


class EventKind(StrEnum):
    REQUESTED = "agent.requested"
    REJECTED = "agent.rejected"
    QUEUED = "agent.queued"
    ADMITTED = "agent.admitted"
    STARTING = "agent.starting"
    READY = "agent.ready"
    WARNING = "agent.warning"
    DRAINING = "agent.draining"
    KEPT = "agent.kept"
    RESTARTING = "agent.restarting"
    FAILED = "agent.failed"
    EVICTED = "agent.evicted"
    CANCELLED = "agent.cancelled"
    TERMINATED = "agent.terminated"
    RESIZED = "agent.resized"
    # The agent has replaced its browser by itself; the attempt goes on.
    BROWSER_REOPENED = "browser.reopened"
    COMMAND_EXECUTED = "command.executed"
    NOTICE_SENT = "notice.sent"
    # Live only: pushed to sockets, never stored.
    POSITION_CHANGED = "agent.position_changed"


class Event(BaseModel):
    """One fact of a life. `seq` is gapless per agent, `cursor` grows per user and is opaque outside."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")
    cursor: int
    agent_id: str | None
    project_id: str
    seq: int | None
    at: datetime
    kind: EventKind
    state: AgentState | None
    reason: str | None
    detail: dict[str, Any]
