"""A life's last stretch: warned, kept or let go, given time to save, ended."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import contracts
    from core.domain import stops
    from core.domain.lifecycle import FINAL, AgentState
    from core.domain.orders import StopOrder
    from core.domain.recovery import FailureKind
    from core.domain.timings import seconds
    from workflows.life import Drain
    from workflows.options import DEADLINE_IS_TOLD, GRACE_FOLLOWS_ITS_WARNING, LOCAL
    from workflows.record import Record, was_late


class Ending:
    """Handlers set `keep_asked`; only the steps here take it back."""

    def __init__(self, record: Record) -> None:
        self.course = record.course
        self.keep_asked = False
        self._record = record

    def may_be_kept(self) -> bool:
        drain = self.course.drain
        return self.course.state is AgentState.DRAINING and drain is not None and drain.keepable

    async def enter(self, order: StopOrder) -> None:
        course, asked_at = self.course, workflow.now()
        grace = self._grace(order)
        drain = Drain(
            reason=order.reason,
            detail=order.detail,
            deadline_at=asked_at + seconds(grace),
            keepable=grace > 0 and stops.may_be_kept(order),
            force=order.force,
        )
        ask = contracts.Draining(
            life=course.life,
            reason=order.reason,
            detail=order.detail,
            deadline_at=drain.deadline_at if grace > 0 else None,
            keepable=drain.keepable,
        )
        with self._record.leaves():
            moved = await workflow.execute_local_activity(contracts.mark_draining, ask, **LOCAL)
        self.keep_asked = False
        if moved.attempt > ask.life.attempt and moved.state not in FINAL:
            # Nothing was told to go under that attempt; the next step tells the one that lives.
            course.inbox.stop = course.inbox.stop or order
        if await self._record.arrived(moved, AgentState.DRAINING, order.reason):
            course.drain = drain
            # Noted while it was told to go: whoever keeps it then keeps it where it is.
            course.move = None
            if course.inbox.failure is not None and course.inbox.failure.kind is FailureKind.USER_RESTART:
                # Overtaken by the stop; it is no sign that anything broke.
                course.inbox.failure = None
            while grace > 0 and was_late(asked_at) and workflow.patched(GRACE_FOLLOWS_ITS_WARNING):
                asked_at = workflow.now()
                course.drain = drain.model_copy(update={"deadline_at": asked_at + seconds(grace)})
                again = ask.model_copy(update={"deadline_at": course.drain.deadline_at})
                await workflow.execute_local_activity(contracts.mark_hastened, again, **LOCAL)

    def _grace(self, order: StopOrder) -> float:
        # Nothing to save before the agent was usable, and nothing to come back to.
        if self.course.state not in (AgentState.RUNNING, AgentState.DRAINING):
            return 0
        return stops.grace_of(order, self.course.timings.grace_seconds)

    async def drain(self) -> None:
        course, inbox = self.course, self.course.inbox
        # A run that was reset by hand does not know of a grace any more: it is over.
        told = inbox.stop or StopOrder()
        drain = course.drain or Drain(
            reason=told.reason, detail=told.detail, deadline_at=workflow.now(), keepable=False, force=told.force
        )
        while inbox.failure is None and (left := drain.deadline_at - workflow.now()) > timedelta(0):
            try:
                await workflow.wait_condition(
                    lambda: self.keep_asked or inbox.called_away(), timeout=left, timeout_summary="grace"
                )
            except TimeoutError:
                break
            if inbox.stop is not None:
                order, inbox.stop = inbox.stop, None
                drain = course.drain = await self._hasten(drain, order)
            if self.keep_asked and inbox.failure is None and not await self._still_draining():
                return
            self.keep_asked = False
        # What broke while it was told to go has nothing left to save.
        broken = inbox.failure is not None
        # From here on there is no way back.
        drain = course.drain = drain.model_copy(update={"keepable": False})
        inbox.failure, self.keep_asked = None, False
        within = 0.0 if drain.force or inbox.forced() or broken else course.timings.shutdown_seconds
        await self._record.end(AgentState.TERMINATED, drain.reason, drain.detail, within_seconds=within)

    async def _hasten(self, drain: Drain, order: StopOrder) -> Drain:
        """Told to stop once more, by whoever: a grace is only ever made shorter, and what one order takes is gone."""
        sooner = workflow.now() + seconds(self._grace(order))
        hastened = drain.model_copy(
            update={
                "deadline_at": min(drain.deadline_at, sooner),
                "keepable": drain.keepable and stops.may_be_kept(order),
                "force": drain.force or order.force,
            }
        )
        shown = (hastened.deadline_at, hastened.keepable)
        if shown != (drain.deadline_at, drain.keepable) and workflow.patched(DEADLINE_IS_TOLD):
            left = hastened.deadline_at > workflow.now()
            ask = contracts.Draining(
                life=self.course.life,
                reason=order.reason,
                detail=order.detail,
                deadline_at=hastened.deadline_at if left else None,
                keepable=hastened.keepable and left,
            )
            await workflow.execute_local_activity(contracts.mark_hastened, ask, **LOCAL)
        return hastened

    async def _still_draining(self) -> bool:
        """Asked to be kept: back to running when the warning may be taken back. False when the drain is over."""
        if self.may_be_kept():
            moved = await workflow.execute_local_activity(contracts.mark_kept, self.course.life, **LOCAL)
            if await self._record.arrived(moved, AgentState.RUNNING):
                self.course.drain = None
        self.keep_asked = False
        return self.course.state is AgentState.DRAINING
