"""One channel of notices: wakes when one was written or is due again, and has it sent. The rows are the outbox."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, ConfigDict

    from activities import contracts, messages
    from core.domain.notices import Channel
    from core.domain.timings import seconds
    from workflows.onward import ONTO_CURRENT, Onward
    from workflows.options import DELIVER, HISTORY_LIMIT


class NoticesInput(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    channel: Channel
    history_limit: int = HISTORY_LIMIT


@workflow.defn(name="Notices")
class Notices:
    """A channel of its own, so that a mail server which does not answer holds up no webhook. Signals are coalesced."""

    @workflow.init
    def __init__(self, start: NoticesInput) -> None:
        self._written = True
        self._onward = Onward(start.history_limit)

    @workflow.run
    async def run(self, start: NoticesInput) -> None:
        while not self._onward.due():
            self._written = False
            ask = messages.Delivery(channel=start.channel)
            done: messages.Delivered = await workflow.execute_activity(contracts.deliver_notices, ask, **DELIVER)
            workflow.set_current_details(f"{done.sent} sent, {done.retried} to be tried again, {done.dead} given up")
            await self._wait(None if done.next_in_seconds is None else seconds(done.next_in_seconds))
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(start, initial_versioning_behavior=ONTO_CURRENT)

    async def _wait(self, until_due: timedelta | None) -> None:
        if until_due is not None and until_due <= timedelta(0):
            return
        try:
            await workflow.wait_condition(lambda: self._written, timeout=until_due, timeout_summary="next try")
        except TimeoutError:
            return

    @workflow.signal
    def written(self) -> None:
        self._written = True

    @workflow.signal
    def hand_on(self) -> None:
        self._onward.told = self._written = True
