"""What can be asked of a life, and what it answers: payloads of the workflow's update and signals.

Each names the life (`agent_id`) and, where it speaks of one, the attempt; a handler drops what does not match, so that
a late order of an ended life never reaches the next one. Only an operator's own order may leave `agent_id` out.
"""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from core.domain.lifecycle import AgentState
from core.domain.recovery import FailureKind
from core.domain.sizes import Size
from core.domain.storable import Text
from core.domain.timings import MOST_GRACE_SECONDS


class Order(BaseModel):
    # An operator types these by hand: unknown fields are refused rather than overlooked.
    model_config = ConfigDict(frozen=True, extra="forbid")


# What the key of a booked start begins with: with a tab, which no user's Idempotency-Key has.
SCHEDULED_KEY = "scheduled\t"


class StartRequest(Order):
    """One start-agent call. `agent_id` is the id a new life would get; `key` its Idempotency-Key, if it had one."""

    agent_id: str
    user_id: str
    project_id: str
    template: str = "default"
    pool: str = "default"
    key: str | None = None
    body_hash: str = ""


class StartOutcome(StrEnum):
    CREATED = "created"
    EXISTING = "existing"
    QUEUED = "queued"
    REJECTED = "rejected"


class StartAnswer(Order):
    """`agent_id` is the living agent's, None when rejected. Everything else a caller wants is in the agent's row."""

    outcome: StartOutcome
    agent_id: str | None = None
    reason: str | None = None
    action: str | None = None

    def of_another(self, request: StartRequest) -> str | None:
        """The agent, where it is not the one that `request` was to make."""
        return self.agent_id if self.agent_id != request.agent_id else None


class StopOrder(Order):
    """Drain (or cancel a waiting request). `grace_seconds` None: by the reason; `force` skips warning and saving."""

    agent_id: str | None = None
    reason: Text = "operator"
    grace_seconds: float | None = Field(None, ge=0, le=MOST_GRACE_SECONDS)
    force: bool = False
    detail: Text = ""


class AbandonOrder(Order):
    """Stop by force, and do not wait for a runtime that does not answer: the operator knows that nothing runs there."""

    agent_id: str | None = None
    reason: Text = "operator"
    detail: Text = ""


class KeepOrder(Order):
    """Take a warning back while its grace runs and its reason allows."""

    agent_id: str | None = None


class RestartOrder(Order):
    agent_id: str | None = None


class ResizeOrder(Order):
    """Give the running agent other limits, without a restart."""

    agent_id: str | None = None
    size: Size


class MigrateOrder(Order):
    """Move the agent to another machine: warned, saved, and begun there as its next attempt."""

    agent_id: str | None = None


class Verdict(StrEnum):
    """What came of an order that its agent's state, or its runtime, may refuse."""

    DONE = "done"
    # Taken, and done by the runtime when it can; the answer's detail says what it waits for.
    PENDING = "pending"
    WRONG_STATE = "wrong_state"
    REFUSED = "refused"
    TOO_LARGE = "too_large"
    # The runtime did not answer in time; nothing was changed.
    UNAVAILABLE = "unavailable"


class OrderAnswer(Order):
    verdict: Verdict
    state: AgentState
    detail: Text = ""


class MaintenanceOrder(Order):
    """What is to be emptied, a pool or a machine: who lives there at `warn_at` is told then, and gone by `starts_at`.

    None, or nearer than their grace and what leaving takes: they leave as soon as their grace is over.
    """

    pool: str | None = None
    node: str | None = None
    starts_at: datetime | None = None
    warn_at: datetime
    detail: Text = ""


class Grant(Order):
    """A slot was given to this attempt; the row says so already, this only wakes the workflow."""

    agent_id: str
    attempt: int


class ReadyReport(Order):
    agent_id: str
    attempt: int


class FailureReport(Order):
    agent_id: str
    attempt: int
    kind: FailureKind
    detail: Text = ""
    # Set by nothing and read by nothing. APIs of a release before send it, and a workflow refuses an order with a field
    # that its model does not have.
    at: datetime | None = None
