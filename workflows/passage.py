"""One life's way through its states: a step each, every step durable and taken up again where it was left."""

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import contracts
    from activities.contracts import Final, Life, Moved
    from core.domain import recovery
    from core.domain.lifecycle import FINAL, KEEPABLE, AgentState, EndReason
    from core.domain.orders import FailureReport, StopOrder
    from core.domain.recovery import FailureKind, GiveUp, Restart
    from core.domain.timings import seconds
    from core.ids import keyword
    from workflows.life import Course, Drain, Inbox
    from workflows.options import AGENT_ID, AGENT_REASON, AGENT_STATE, LOCAL, create_options, removal_options

_OWN_STOPS = frozenset({EndReason.USER_REQUESTED, EndReason.USER_LEFT, EndReason.CANCELLED})


def history_is_long(limit: int) -> bool:
    info = workflow.info()
    return info.is_continue_as_new_suggested() or info.get_current_history_length() >= limit


class Passage:
    """Carries `course` along. Handlers write into its inbox and set `keep_asked`; only steps change its state."""

    def __init__(self, course: Course, history_limit: int) -> None:
        self.course = course
        self.keep_asked = False
        self._history_limit = history_limit

    @property
    def over(self) -> bool:
        return self.course.state in FINAL

    def may_be_kept(self) -> bool:
        drain = self.course.drain
        return self.course.state is AgentState.DRAINING and drain is not None and drain.keepable

    def full(self) -> bool:
        return history_is_long(self._history_limit)

    async def step(self) -> None:
        match self.course.state:
            case AgentState.REQUESTED | AgentState.QUEUED:
                await self._wait_for_slot()
            case AgentState.STARTING:
                await self._bring_up()
            case AgentState.RUNNING:
                await self._keep_running()
            case AgentState.RESTARTING:
                await self._pause_and_retry()
            case AgentState.DRAINING:
                await self._drain()
            case AgentState.TERMINATED | AgentState.CANCELLED | AgentState.FAILED:
                return

    # ---- waiting and starting ---------------------------------------------------------------------------------------

    async def _wait_for_slot(self) -> None:
        course, inbox = self.course, self.course.inbox
        await workflow.wait_condition(lambda: inbox.granted or inbox.stop is not None or self.full())
        if inbox.stop is not None:
            order, inbox.stop = inbox.stop, None
            course.state = (await withdraw(course.life, order)).state
            self.show(order.reason)
        elif inbox.granted:
            inbox.granted = False
            course.state = AgentState.STARTING

    async def _bring_up(self) -> None:
        course, inbox = self.course, self.course.inbox
        if course.begun != course.life.attempt and not await self._begin():
            return
        deadline = workflow.now() + seconds(course.timings.ready_deadline_seconds)
        await self._create()
        if not inbox.called_away():
            await self._await_ready(max(deadline - workflow.now(), timedelta(milliseconds=1)))
        if inbox.called_away():
            await self._answer_call()
        else:
            moved = await workflow.execute_local_activity(contracts.mark_running, course.life, **LOCAL)
            if await self._arrived(moved, AgentState.RUNNING):
                course.running_since = workflow.now()
        inbox.ready = False

    async def _begin(self) -> bool:
        course = self.course
        ask = contracts.Begin(
            life=course.life, restarts=course.restarts, deadline_seconds=course.timings.ready_deadline_seconds
        )
        moved = await workflow.execute_local_activity(contracts.begin, ask, **LOCAL)
        if not await self._arrived(moved, AgentState.STARTING):
            return False
        course.begun = course.life.attempt
        return True

    async def _create(self) -> None:
        """Have the attempt made. What goes wrong, and what is called in meanwhile, is in the inbox afterwards."""
        life, inbox = self.course.life, self.course.inbox
        create = workflow.start_activity(
            contracts.create_agent,
            life,
            summary=f"attempt {life.attempt}",
            **create_options(life.pool, self.course.timings.ready_deadline_seconds),
        )
        await workflow.wait_condition(lambda: create.done() or inbox.called_away())
        if not create.done():
            create.cancel()
        try:
            await create
        except ActivityError as error:
            if not inbox.called_away():
                inbox.failure = _not_made(life, error)

    async def _await_ready(self, left: timedelta) -> None:
        course, inbox = self.course, self.course.inbox
        try:
            await workflow.wait_condition(
                lambda: inbox.ready or inbox.called_away(),
                timeout=left,
                timeout_summary="start deadline",
            )
        except TimeoutError:
            # The row knows of a ready whose signal was lost.
            seen = await workflow.execute_local_activity(contracts.look, course.life, **LOCAL)
            if not seen.ready:
                late = f"not usable within {course.timings.ready_deadline_seconds:g} s"
                detail = f"{late}: {seen.trouble}" if seen.trouble else late
                inbox.failure = failure_of(course.life, seen.failure or FailureKind.START_DEADLINE, detail)

    # ---- running ----------------------------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        course, inbox = self.course, self.course.inbox
        until_look = seconds(course.timings.idle_seconds)
        while not inbox.called_away() and not self.full():
            try:
                await workflow.wait_condition(
                    lambda: inbox.called_away() or self.full(),
                    timeout=self._next_look(until_look),
                    timeout_summary="idle?",
                )
            except TimeoutError:
                until_look = await self._look_for_activity()
        if inbox.called_away():
            await self._answer_call()

    def _next_look(self, until_look: timedelta) -> timedelta:
        longest = self.course.timings.max_life_seconds
        if not longest:
            return until_look
        left = self.course.born_at + seconds(longest) - workflow.now()
        return max(min(until_look, left), timedelta(0))

    async def _look_for_activity(self) -> timedelta:
        """Pull the last activity; order a stop when there was none for too long, else say when to look again."""
        course, now = self.course, workflow.now()
        if course.timings.max_life_seconds and now - course.born_at >= seconds(course.timings.max_life_seconds):
            course.inbox.stop = StopOrder(reason=EndReason.MAX_LIFE)
            return timedelta(0)
        seen = await workflow.execute_local_activity(contracts.look, course.life, **LOCAL)
        if seen.state in FINAL:
            # The row was ended without us: nothing is left to do but to clear up.
            course.inbox.stop = StopOrder(reason=EndReason.WORKFLOW_GONE, grace_seconds=0)
            return timedelta(0)
        left: timedelta = seen.last_activity_at + seconds(course.timings.idle_seconds) - now
        if left > timedelta(0):
            return left
        course.inbox.stop = StopOrder(reason=EndReason.INACTIVITY)
        return timedelta(0)

    # ---- failing ----------------------------------------------------------------------------------------------------

    async def _answer_call(self) -> None:
        """A stop goes before a failure: who is told to go need not be mended first."""
        inbox = self.course.inbox
        if inbox.stop is not None:
            order, inbox.stop = inbox.stop, None
            await self._enter_drain(order)
        elif inbox.failure is not None:
            failure, inbox.failure = inbox.failure, None
            await self._recover(failure)

    async def _recover(self, failure: FailureReport) -> None:
        course, since = self.course, self.course.running_since
        if since is not None and workflow.now() - since >= seconds(course.timings.healthy_seconds):
            course.restarts = 0
        match recovery.decide(failure.kind, course.restarts, course.timings.restart_backoff_seconds):
            case Restart(after_seconds=after):
                asked_for = failure.kind is FailureKind.USER_RESTART
                spent = recovery.spends(failure.kind, was_usable=since is not None)
                restarts = course.restarts + (1 if spent else 0)
                ask = contracts.Restarting(
                    life=course.life,
                    kind=failure.kind,
                    detail=failure.detail,
                    after_seconds=after,
                    restarts=restarts,
                )
                moved = await workflow.execute_local_activity(contracts.mark_restarting, ask, **LOCAL)
                if await self._arrived(moved, AgentState.RESTARTING, failure.kind):
                    course.restarts = restarts
                    course.pause_seconds = after
                    course.save_first = asked_for
                    course.running_since = None
            case GiveUp(reason=reason):
                await self._end(AgentState.FAILED, reason, failure.detail, within_seconds=0)

    async def _pause_and_retry(self) -> None:
        course = self.course
        within = course.timings.shutdown_seconds if course.save_first else 0
        await remove(course.life, "restart", within_seconds=within)
        # A wait of no length would not even look at its condition.
        if course.inbox.stop is None and course.pause_seconds > 0:
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: course.inbox.stop is not None,
                    timeout=seconds(course.pause_seconds),
                    timeout_summary="pause before the restart",
                )
        if course.inbox.stop is not None:
            await self._answer_call()
        else:
            course.life = course.life.model_copy(update={"attempt": course.life.attempt + 1})
            course.inbox = Inbox()
            course.state = AgentState.STARTING

    # ---- draining and ending ----------------------------------------------------------------------------------------

    async def _enter_drain(self, order: StopOrder) -> None:
        course = self.course
        grace = 0.0 if order.force else self._grace(order)
        drain = Drain(
            reason=order.reason,
            detail=order.detail,
            deadline_at=workflow.now() + seconds(grace),
            keepable=grace > 0 and _may_be_kept(order),
            force=order.force,
        )
        ask = contracts.Draining(
            life=course.life,
            reason=order.reason,
            detail=order.detail,
            deadline_at=drain.deadline_at if grace > 0 else None,
            keepable=drain.keepable,
        )
        moved = await workflow.execute_local_activity(contracts.mark_draining, ask, **LOCAL)
        self.keep_asked = False
        if await self._arrived(moved, AgentState.DRAINING, order.reason):
            course.drain = drain
            if course.inbox.failure is not None and course.inbox.failure.kind is FailureKind.USER_RESTART:
                # Overtaken by the stop; it is no sign that anything broke.
                course.inbox.failure = None

    def _grace(self, order: StopOrder) -> float:
        # Nothing to save before the agent was usable, and nothing to come back to.
        if self.course.state not in (AgentState.RUNNING, AgentState.DRAINING):
            return 0
        if order.grace_seconds is not None:
            return order.grace_seconds
        # The user's own stop needs no warning to the user.
        return 0 if order.reason in _OWN_STOPS else self.course.timings.grace_seconds

    async def _drain(self) -> None:
        course, inbox = self.course, self.course.inbox
        drain = course.drain or Drain(
            reason=EndReason.OPERATOR, deadline_at=workflow.now(), keepable=False, force=False
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
                drain = course.drain = self._hastened(drain, order)
            if self.keep_asked and inbox.failure is None and not await self._still_draining():
                return
            self.keep_asked = False
        # What broke while it was told to go has nothing left to save.
        broken = inbox.failure is not None
        # From here on there is no way back.
        drain = course.drain = drain.model_copy(update={"keepable": False})
        inbox.failure, self.keep_asked = None, False
        within = 0.0 if drain.force or broken else course.timings.shutdown_seconds
        await self._end(AgentState.TERMINATED, drain.reason, drain.detail, within_seconds=within)

    def _hastened(self, drain: Drain, order: StopOrder) -> Drain:
        """Told to stop once more, by whoever: a grace is only ever made shorter, and what one order takes is gone."""
        sooner = workflow.now() + seconds(0 if order.force else self._grace(order))
        return drain.model_copy(
            update={
                "deadline_at": min(drain.deadline_at, sooner),
                "keepable": drain.keepable and _may_be_kept(order),
                "force": drain.force or order.force,
            }
        )

    async def _still_draining(self) -> bool:
        """Asked to be kept: back to running when the warning may be taken back. False when the drain is over."""
        if self.may_be_kept():
            moved = await workflow.execute_local_activity(contracts.mark_kept, self.course.life, **LOCAL)
            if await self._arrived(moved, AgentState.RUNNING):
                self.course.drain = None
        self.keep_asked = False
        return self.course.state is AgentState.DRAINING

    async def _end(self, state: AgentState, reason: str, detail: str, *, within_seconds: float) -> None:
        """Remove everything, then write the end: the slot is given back only when the runtime said gone."""
        course = self.course
        usage = await remove(course.life, reason, within_seconds=within_seconds)
        ending = Final(life=course.life, state=state, reason=reason, detail=detail, usage=usage)
        moved = await workflow.execute_local_activity(contracts.finish, ending, **LOCAL)
        course.state = moved.state if moved.state in FINAL else state
        self.show(reason)

    async def _arrived(self, moved: Moved, to: AgentState, reason: str | None = None) -> bool:
        """Take the row's word for where we are; False when someone ended this life without us."""
        course = self.course
        arrived = moved.applied or moved.state is to
        course.state = to if arrived else moved.state
        if moved.state in FINAL:
            await remove(course.life, EndReason.WORKFLOW_GONE, within_seconds=0)
        self.show(reason)
        return arrived

    def show(self, reason: str | None = None) -> None:
        """Tell the story where operators look: search attributes for lists, details for the page of one life."""
        course = self.course
        workflow.upsert_search_attributes(
            [
                AGENT_ID.value_set(course.life.agent_id),
                AGENT_STATE.value_set(course.state.value),
                AGENT_REASON.value_set(keyword(reason)) if reason else AGENT_REASON.value_unset(),
            ]
        )
        because = f": {reason}" if reason else ""
        workflow.set_current_details(f"**{course.state.value}**{because}, attempt {course.life.attempt}")


def _may_be_kept(order: StopOrder) -> bool:
    return order.reason in KEEPABLE or order.grace_seconds is not None


def _not_made(life: Life, error: ActivityError) -> FailureReport:
    """Why an attempt could not be made: the runtime's last word, also where the time for trying ended meanwhile."""
    cause: BaseException | None = error.cause
    while cause is not None and not isinstance(cause, ApplicationError):
        cause = cause.__cause__
    if cause is None:
        return failure_of(life, FailureKind.START_DEADLINE, str(error.cause or error))
    try:
        kind = FailureKind(cause.type or "")
    except ValueError:
        # Not one of our kinds, so it matters only whether trying on would help.
        kind = FailureKind.CANNOT_START if cause.non_retryable else FailureKind.START_DEADLINE
    return failure_of(life, kind, str(cause))


def failure_of(life: Life, kind: FailureKind, detail: str) -> FailureReport:
    return FailureReport(agent_id=life.agent_id, attempt=life.attempt, kind=kind, detail=detail[:1000])


async def withdraw(life: Life, order: StopOrder) -> Moved:
    """End a life that waits; one that was granted a slot this very moment is ended too, nothing was made for it yet."""
    ending = Final(life=life, state=AgentState.CANCELLED, reason=order.reason, detail=order.detail)
    return await workflow.execute_local_activity(contracts.withdraw, ending, **LOCAL)


async def remove(life: Life, reason: str, *, within_seconds: float) -> contracts.Usage:
    """Have everything of an attempt removed; returns when the runtime says gone."""
    return await workflow.execute_activity(
        contracts.shut_down_agent,
        contracts.Shutdown(life=life, reason=reason, within_seconds=within_seconds),
        summary=reason,
        **removal_options(life.pool, within_seconds),
    )
