"""A start to come: waits for its time by a durable timer, then has it made once, by the door that all starts use."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, ConfigDict

    from activities import contracts, messages
    from core.domain.schedule import AGAIN, PATIENCE
    from workflows.onward import ONTO_CURRENT, Onward
    from workflows.options import HISTORY_LIMIT, LOCAL, START


class ScheduledStartInput(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    scheduled_start_id: str
    start_at: datetime
    patience: timedelta = PATIENCE
    again: timedelta = AGAIN


@workflow.defn(name="ScheduledStart")
class ScheduledStart:
    """The row says what became of it, so any number of runs for one row do no harm, one after the other or again.

    `workflow cancel` takes it back, unless the start is under way. `workflow terminate` runs no code of ours: the
    reaper starts another run shortly before it is due.
    """

    @workflow.init
    def __init__(self, start: ScheduledStartInput) -> None:
        self._start = start
        self._withdrawn = False
        self._onward = Onward(HISTORY_LIMIT)

    @workflow.run
    async def run(self, start: ScheduledStartInput) -> None:
        whole = asyncio.create_task(self._see_to_it())
        try:
            over = await asyncio.shield(whole)
        except asyncio.CancelledError:
            # A start that is just being made is not torn apart.
            self._withdrawn = True
            if not await whole:
                await self._withdraw()
            raise
        if not over:
            workflow.continue_as_new(start, initial_versioning_behavior=ONTO_CURRENT)

    async def _see_to_it(self) -> bool:
        """Wait, then have it made or taken back. False: it waits on in a new run, on newer workers; no old ones are to
        stand by for a month."""
        # By the clock when the timer rings, not by the timer: a clock that was set meanwhile may ring it early.
        while not self._withdrawn and (left := self._start.start_at - workflow.now()) > timedelta(0):
            if self._onward.due():
                return False
            await self._rest(left, "until it is due", self._onward.due)
        give_up_at = workflow.now() + self._start.patience
        while not self._withdrawn:
            ask = messages.DueStart(
                scheduled_start_id=self._start.scheduled_start_id, last=workflow.now() >= give_up_at
            )
            tried = await workflow.execute_activity(contracts.start_scheduled, ask, **START)
            if tried.over:
                return True
            await self._rest(self._start.again, "the queue is full")
        await self._withdraw()
        return True

    async def _withdraw(self) -> None:
        ref = messages.ScheduledRef(scheduled_start_id=self._start.scheduled_start_id)
        await workflow.execute_local_activity(contracts.withdraw_scheduled, ref, **LOCAL)

    async def _rest(self, time: timedelta, why: str, called: Callable[[], bool] = lambda: False) -> None:
        workflow.set_current_details(why)
        try:
            await workflow.wait_condition(lambda: self._withdrawn or called(), timeout=time, timeout_summary=why)
        except TimeoutError:
            return

    @workflow.signal
    def hand_on(self) -> None:
        self._onward.told = True
