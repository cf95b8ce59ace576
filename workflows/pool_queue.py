"""One pool's queue: wakes when something changed, gives free slots in order. The rows are the queue."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, ConfigDict

    from activities import contracts, messages
    from core.domain.timings import seconds
    from workflows.onward import ONTO_CURRENT, Onward
    from workflows.options import HISTORY_LIMIT, LOCAL


class PoolQueueInput(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    pool: str
    tick_seconds: float = 30
    history_limit: int = HISTORY_LIMIT


@workflow.defn(name="PoolQueue")
class PoolQueue:
    """Signals only say "look again" and are coalesced; a grant whose signal was lost is sent again on every pass."""

    @workflow.init
    def __init__(self, start: PoolQueueInput) -> None:
        self._start = start
        self._dirty = True
        self._open = False
        self._onward = Onward(start.history_limit)

    @workflow.run
    async def run(self, start: PoolQueueInput) -> None:
        while not self._onward.due():
            await self._pass()
            await self._wait()
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(start, initial_versioning_behavior=ONTO_CURRENT)

    async def _pass(self) -> None:
        self._dirty = False
        done = await workflow.execute_local_activity(
            contracts.grant_slots, messages.PoolRef(pool=self._start.pool), **LOCAL
        )
        # More than one batch was free: look again at once.
        self._dirty = self._dirty or (done.granted > 0 and done.waiting > 0)
        self._open = done.waiting > 0 or done.unseen > 0
        workflow.set_current_details(f"{done.waiting} waiting, {done.unseen} grants under way")

    async def _wait(self) -> None:
        tick: timedelta | None = seconds(self._start.tick_seconds) if self._open else None
        try:
            await workflow.wait_condition(lambda: self._dirty, timeout=tick, timeout_summary="look again")
        except TimeoutError:
            self._dirty = True

    # No part of Berth sends the next two. They stay as runs were told them, and must come out the same when replayed.
    @workflow.signal
    def released(self) -> None:
        self._dirty = True

    @workflow.signal
    def enqueued(self) -> None:
        self._dirty = True

    @workflow.signal
    def capacity_changed(self) -> None:
        self._dirty = True

    @workflow.signal
    def hand_on(self) -> None:
        self._onward.told = self._dirty = True
