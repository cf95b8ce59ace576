"""What a life carries from step to step and from run to run."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer
from temporalio import workflow

from activities.contracts import Life, Usage
from core.domain import stops
from core.domain.lifecycle import WAITING, AgentState
from core.domain.orders import FailureReport, StartRequest, StopOrder
from core.domain.timings import Timings
from workflows.options import HISTORY_LIMIT, STOPS_ADD_UP


class Inbox(BaseModel):
    """What was said to this life and not acted upon yet. Handlers write it, the step that acts takes it out."""

    model_config = ConfigDict(extra="forbid")
    granted: bool = False
    ready: bool = False
    stop: StopOrder | None = None
    failure: FailureReport | None = None
    # A failure of an attempt that this run does not know of; the row tells whether there is one.
    ahead: FailureReport | None = None

    def called_away(self) -> bool:
        return self.stop is not None or self.failure is not None

    def forced(self) -> bool:
        return self.stop is not None and self.stop.force


class Drain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    reason: str
    detail: str = ""
    deadline_at: datetime
    keepable: bool
    force: bool


class Move(BaseModel):
    """A running agent that is to be begun on another machine than `node`, once its user was warned."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    node: str
    deadline_at: datetime


_LATER = ("given_up", "usage", "counted")


class Course(BaseModel):
    """Where a life stands. `begun` is the attempt whose start is in the row; `restarts` those not forgiven yet.

    `born_at` is when it was registered, and from the begin of its first attempt on when that was.
    """

    model_config = ConfigDict(extra="forbid")
    life: Life
    timings: Timings
    state: AgentState
    born_at: datetime
    waits_for: str | None = None
    begun: int = 0
    restarts: int = 0
    running_since: datetime | None = None
    pause_seconds: float = 0
    save_first: bool = False
    drain: Drain | None = None
    move: Move | None = None
    # The attempt was made with a machine that it must not be on.
    held_away: bool = False
    # An operator's word that its runtime need not say gone.
    given_up: bool = False
    # Of the attempts that are gone.
    usage: Usage = Usage()
    # The latest of them whose CPU time is in it: one may be removed again, and the same is told of it then.
    counted: int = 0
    inbox: Inbox = Inbox()

    def why(self) -> str | None:
        """The reason for the state it is in, where it has one that it carries."""
        if self.state in WAITING:
            return self.waits_for
        return self.drain.reason if self.drain is not None and self.state is AgentState.DRAINING else None

    def tell_to_stop(self, order: StopOrder) -> None:
        """Have the next step that can stop this life; what it was told before and has not taken yet still counts."""
        self.inbox.stop = added(self.inbox.stop, order, self.timings.grace_seconds)

    @model_serializer(mode="wrap")
    def _written(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came with a later release is left out while it says nothing: the one before knows no such field."""
        silent = {name for name in _LATER if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in whole(self).items() if name not in silent}


def added(told: StopOrder | None, order: StopOrder, usual_grace: float) -> StopOrder:
    both = stops.together(told, order, usual_grace)
    return both if both == order or workflow.patched(STOPS_ADD_UP) else order


class AgentInput(BaseModel):
    """A new life is decided from `request`; a run that was handed on brings its `course`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    request: StartRequest
    course: Course | None = None
    history_limit: int = HISTORY_LIMIT


class KeepAnswer(BaseModel):
    """What came of asking to keep an agent, and the state it is in."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kept: bool
    state: AgentState
