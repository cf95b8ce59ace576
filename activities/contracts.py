"""Every activity as workflows see it: name, one model in, one model out. Bodies are in the neighbouring modules, models
that are of no single life in `messages`.

All are safe to run twice. Those marked local run inside the worker that runs the workflow and touch the database and
Temporal, and for a moment the runtime of an agent that does not come up (`look`); the others run where the pool's
runtime can be reached (task queue `runtime/{pool}`).
"""

from datetime import datetime

from temporalio import activity

from activities.messages import (
    Cleaned,
    Delivered,
    Delivery,
    DueStart,
    Emergency,
    Evictions,
    Granted,
    Nothing,
    PoolRef,
    PressureLook,
    PressureSeen,
    Reaped,
    ScheduledRef,
    Tried,
    Warned,
)
from core.domain.lifecycle import AgentState
from core.domain.orders import MaintenanceOrder, StartAnswer, StartRequest
from core.domain.recovery import FailureKind
from core.domain.sizes import Size
from core.domain.storable import Text
from core.domain.timings import Timings
from core.domain.value import Value

# The type of an error: what is asked is of a past that the row has left behind.
LIFE_MOVED_ON = "life_moved_on"


class Life(Value):
    """Names one attempt of one agent, with what an activity needs to find it."""

    agent_id: str
    attempt: int
    user_id: str
    project_id: str
    pool: str
    template: str
    runtime: str


class Registration(Value):
    """Ask for a new life. `predecessor` is the life that the same workflow is just ending."""

    request: StartRequest
    workflow_id: str
    predecessor: str | None = None


class Registered(Value):
    """`answer` None: `leftovers` of a terminated run stand in the way, clear them and register again.

    `life` is another than was asked for where one waits behind the predecessor that its workflow has forgotten.
    """

    answer: StartAnswer | None
    life: Life | None = None
    state: AgentState | None = None
    begun: bool = False
    timings: Timings | None = None
    leftovers: tuple[Life, ...] = ()


class Begin(Value):
    """A slot was given (or a restart is due): this attempt starts now."""

    life: Life
    deadline_seconds: float


class Restarting(Value):
    life: Life
    kind: Text
    detail: Text
    after_seconds: float
    restarts: int
    # The machine that the next attempt must not be on.
    away_from: str | None = None


class Draining(Value):
    """`deadline_at` is when the grace ends; None for no grace."""

    life: Life
    reason: Text
    detail: Text = ""
    deadline_at: datetime | None = None
    keepable: bool = False


class Resize(Value):
    life: Life
    size: Size


class Resized(Value):
    """What the runtime made of it. `waits_for` says why the machine has not done it yet; empty when it has."""

    life: Life
    before: Size
    size: Size
    waits_for: Text = ""


class Placed(Value):
    """Where an attempt is. That another machine would take it is what the answer itself says."""

    node: str


class Migrating(Value):
    life: Life
    node: str
    deadline_at: datetime


class Usage(Value):
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


class Final(Value):
    """The end of a life, after the runtime said gone."""

    life: Life
    state: AgentState
    reason: Text
    detail: Text = ""
    usage: Usage | None = None


class Moved(Value):
    """What the row says after a write; `applied` False when it had moved on without us."""

    applied: bool
    state: AgentState
    attempt: int


class Rejoined(Moved):
    """Of a restart, whether it waits in line for want of room (`QUEUED`, with its next attempt), and for what."""

    waits_for: str | None = None


class Successor(Value):
    """A row of the same user and project that waits behind a life that has ended."""

    life: Life
    state: AgentState
    timings: Timings
    waits_for: str | None = None


class Ended(Moved):
    """What the row says after the end, and the `successor` that stands in line then."""

    successor: Successor | None = None


class Activity(Value):
    """`ready` tells whether the agent reported ready, which heals a lost signal. Of one that is still starting, the
    runtime's own word is in it too: why it is not there yet (`trouble`), and the failure it ended with.
    """

    last_activity_at: datetime
    ready: bool
    # Nobody here reads it. Workers of an older release want it in what they are told, and recorded lives hold it.
    admitted: bool
    state: AgentState
    attempt: int
    trouble: str = ""
    failure: FailureKind | None = None


class Shutdown(Value):
    """Ask the agent to save and leave within `within_seconds` (0: do not ask), then remove all that was made for it."""

    life: Life
    reason: Text
    within_seconds: float


# ---- local: the agent's row ----------------------------------------------------------------------------------------


@activity.defn(name="register")
async def register(ask: Registration) -> Registered:
    raise NotImplementedError


@activity.defn(name="begin")
async def begin(ask: Begin) -> Moved:
    raise NotImplementedError


@activity.defn(name="mark_running")
async def mark_running(life: Life) -> Moved:
    raise NotImplementedError


@activity.defn(name="mark_restarting")
async def mark_restarting(ask: Restarting) -> Moved:
    raise NotImplementedError


@activity.defn(name="rejoin")
async def rejoin(life: Life) -> Rejoined:
    raise NotImplementedError


@activity.defn(name="mark_draining")
async def mark_draining(ask: Draining) -> Moved:
    raise NotImplementedError


@activity.defn(name="mark_hastened")
async def mark_hastened(ask: Draining) -> Moved:
    raise NotImplementedError


@activity.defn(name="mark_kept")
async def mark_kept(life: Life) -> Moved:
    raise NotImplementedError


@activity.defn(name="mark_resized")
async def mark_resized(ask: Resized) -> Moved:
    raise NotImplementedError


@activity.defn(name="mark_migrating")
async def mark_migrating(ask: Migrating) -> Moved:
    raise NotImplementedError


@activity.defn(name="withdraw")
async def withdraw(ask: Final) -> Ended:
    raise NotImplementedError


@activity.defn(name="finish")
async def finish(ask: Final) -> Ended:
    raise NotImplementedError


@activity.defn(name="look")
async def look(life: Life) -> Activity:
    raise NotImplementedError


@activity.defn(name="grant_slots")
async def grant_slots(ask: PoolRef) -> Granted:
    raise NotImplementedError


# ---- where the runtime is ------------------------------------------------------------------------------------------


@activity.defn(name="create_agent")
async def create_agent(life: Life) -> Nothing:
    raise NotImplementedError


@activity.defn(name="shut_down_agent")
async def shut_down_agent(ask: Shutdown) -> Usage:
    raise NotImplementedError


@activity.defn(name="resize_agent")
async def resize_agent(ask: Resize) -> Resized:
    raise NotImplementedError


@activity.defn(name="find_other_machine")
async def find_other_machine(life: Life) -> Placed:
    raise NotImplementedError


# ---- scheduled starts ----------------------------------------------------------------------------------------------


@activity.defn(name="start_scheduled")
async def start_scheduled(ask: DueStart) -> Tried:
    raise NotImplementedError


@activity.defn(name="withdraw_scheduled")
async def withdraw_scheduled(ask: ScheduledRef) -> Nothing:
    raise NotImplementedError


# ---- the reaper ----------------------------------------------------------------------------------------------------


@activity.defn(name="reap")
async def reap(ask: Nothing) -> Reaped:
    raise NotImplementedError


# ---- pressure ------------------------------------------------------------------------------------------------------


@activity.defn(name="look_for_pressure")
async def look_for_pressure(ask: PressureLook) -> PressureSeen:
    raise NotImplementedError


@activity.defn(name="evict_agents")
async def evict_agents(ask: Evictions) -> Nothing:
    raise NotImplementedError


@activity.defn(name="clear_disks")
async def clear_disks(ask: Emergency) -> Cleaned:
    raise NotImplementedError


# ---- maintenance ---------------------------------------------------------------------------------------------------


@activity.defn(name="warn_of_maintenance")
async def warn_of_maintenance(ask: MaintenanceOrder) -> Warned:
    raise NotImplementedError


# ---- notices -------------------------------------------------------------------------------------------------------


@activity.defn(name="deliver_notices")
async def deliver_notices(ask: Delivery) -> Delivered:
    raise NotImplementedError
