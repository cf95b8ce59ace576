"""What activities need from the Temporal client, which lives a layer above them."""

from typing import Protocol

from core.domain.orders import FailureReport, StopOrder


class Signals(Protocol):
    """Each returns False when no such workflow runs; raises `core.errors.Unavailable` when Temporal does not answer."""

    async def wake_pool(self, pool: str) -> bool: ...

    async def admit(self, workflow_id: str, agent_id: str, attempt: int) -> bool: ...

    async def order_stop(self, workflow_id: str, order: StopOrder) -> bool: ...

    async def failed(self, workflow_id: str, report: FailureReport) -> bool: ...

    async def owners(self) -> dict[str, str | None]:
        """Running agent workflows as the list shows them, perhaps a little late: workflow id to agent id."""

    async def owner(self, workflow_id: str) -> str | None:
        """The agent id that the running workflow of this id owns now; None when none runs. Never late."""
