"""What activities need from the Temporal client, which lives a layer above them."""

from datetime import datetime
from typing import Protocol

from core.db.repositories.agents import AgentView
from core.db.repositories.scheduled import ScheduledView
from core.domain.orders import FailureReport, StartAnswer, StartRequest, StopOrder
from core.domain.value import Value
from core.errors import RuntimeFault


class Owner(Value):
    """Whose a running workflow is. `deciding`: it has work under way, so that this may be about to change.

    `state` is the one that it shows; it is `requested` until the workflow has heard what became of its start.
    """

    agent_id: str | None
    deciding: bool
    state: str | None = None
    run_id: str = ""
    started_at: datetime | None = None


class ScheduledStarts(Protocol):
    """Raises `core.errors.Unavailable` when Temporal does not answer."""

    async def begin(self, start: ScheduledView) -> None:
        """See that a run waits for it."""

    async def running(self) -> dict[str, datetime]:
        """Those that a run waits for, as the list shows them, perhaps a little late, and since when it does."""

    async def withdraw(self, scheduled_start_id: str) -> bool:
        """Let its run end; False when none goes on."""


class Signals(Protocol):
    """Each returns False when no such workflow runs; raises `core.errors.Unavailable` when Temporal does not answer."""

    @property
    def scheduled(self) -> ScheduledStarts: ...

    async def start(self, request: StartRequest, *, anew: bool = False) -> StartAnswer:
        """The door of all starts. Asked again with the same words, it gives the same answer, also when what that speaks
        of is over; `anew` asks for what is true now."""

    async def keep(self, agent: AgentView) -> bool: ...

    async def wake_pool(self, pool: str) -> bool: ...

    async def admit(self, workflow_id: str, agent_id: str, attempt: int) -> bool: ...

    async def order_stop(self, workflow_id: str, order: StopOrder) -> bool: ...

    async def failed(self, workflow_id: str, report: FailureReport) -> bool: ...

    async def owners(self) -> dict[str, str | None]:
        """Running agent workflows as the list shows them, perhaps a little late: workflow id to agent id."""

    async def owner(self, workflow_id: str) -> Owner | None:
        """Which agent the running workflow of this id owns now; None when none runs. Never late."""

    async def end_run(self, workflow_id: str, run_id: str, reason: str) -> bool:
        """Terminate this very run, without a step of its own; False when it is over."""


# What nobody owned and the reaper removed, by its kind.
ORPHANS = "berth_orphans_total"
# What a runtime said no with, by its code; counted wherever a worker calls one.
RUNTIME_ERRORS = "berth_runtime_errors_total"


class Meter(Protocol):
    """Counts what this process does, for whoever scrapes it. Labels must stay few: no ids. Never fails."""

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to the counter `name`."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one value, in seconds, to the histogram `name`."""


class Unmetered:
    """Counts nothing: where nobody scrapes."""

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        pass

    def observe(self, name: str, value: float, **labels: str) -> None:
        pass


def note_runtime_error(meter: Meter, error: BaseException) -> None:
    """Count an error that a runtime said, by its code; others are not a runtime's."""
    if isinstance(error, RuntimeFault):
        meter.count(RUNTIME_ERRORS, code=error.error_code)
