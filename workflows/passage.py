"""One life's way through its states: a step each, every step durable and taken up again where it was left.

The last stretch, from the warning on, is in `ending`; what each step writes in `record`.
"""

import contextlib
from datetime import timedelta
from functools import partial

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import contracts
    from activities.contracts import Life, Successor
    from core.domain import recovery
    from core.domain.lifecycle import CURRENT, FINAL, AgentState, EndReason
    from core.domain.orders import FailureReport, StopOrder
    from core.domain.recovery import FailureKind, GiveUp, Restart
    from core.domain.timings import seconds
    from workflows.alteration import Alteration
    from workflows.ending import Ending
    from workflows.life import Course, Inbox, Move
    from workflows.onward import Onward
    from workflows.options import (
        IDLE_TIME_GOES_ON,
        LIVES_FROM_ITS_BEGIN,
        LOCAL,
        LOST_HOST_ENDS_NOBODY,
        PLACE_IS_GIVEN_BACK,
        WARNING_IS_GIVEN_AGAIN,
        create_options,
    )
    from workflows.record import Record, failure_of


class Passage:
    """Carries `course` along. Handlers write into its inbox; only steps change its state."""

    def __init__(self, course: Course, onward: Onward) -> None:
        self.course = course
        self._record = Record(course)
        self.ending = Ending(self._record)
        self.alteration = Alteration(course)
        self._onward = onward
        # It ran before this run did, so nobody here knows when it was last used.
        self._ran_before = course.state is AgentState.RUNNING

    @property
    def over(self) -> bool:
        return self.course.state in FINAL

    @property
    def leaving(self) -> bool:
        """Whether an end of this life is being written just now: its row may know of it already."""
        return self._record.leaving

    @property
    def left_behind(self) -> Successor | None:
        """Who stood in line behind this life when its row was ended."""
        return self._record.successor

    def is_going(self) -> bool:
        """Whether it was told to go and does not know to have written that; its row may say so already."""
        return self.leaving or (self.course.state in CURRENT and self.course.inbox.stop is not None)

    def is_told(self) -> bool:
        """Whether it runs, and is told to go without having taken that step to its end."""
        course = self.course
        return course.state is AgentState.RUNNING and (self.leaving or course.inbox.stop is not None)

    def give_up_on_runtime(self) -> None:
        """Let this life end without its runtime's word."""
        self.course.given_up = True
        self._record.removal.give_up()

    def show(self, reason: str | None = None) -> None:
        self._record.show(reason)

    def full(self) -> bool:
        return self._onward.due()

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
                await self.ending.drain()
            case AgentState.TERMINATED | AgentState.CANCELLED | AgentState.FAILED:
                return

    # ---- waiting and starting ---------------------------------------------------------------------------------------

    async def _wait_for_slot(self) -> None:
        course, inbox = self.course, self.course.inbox
        await workflow.wait_condition(lambda: inbox.granted or inbox.stop is not None or self.full())
        if inbox.stop is not None:
            order, inbox.stop = inbox.stop, None
            await self._record.withdraw(order)
        elif inbox.granted:
            inbox.granted = False
            course.state = AgentState.STARTING

    async def _bring_up(self) -> None:
        course, inbox = self.course, self.course.inbox
        if course.begun != course.life.attempt and not await self._begin():
            return
        deadline = workflow.now() + seconds(course.timings.ready_deadline_seconds)
        attempt = course.life.attempt
        await self._create()
        if course.state is not AgentState.STARTING or course.life.attempt != attempt:
            return
        if not inbox.called_away():
            await self._await_ready(max(deadline - workflow.now(), timedelta(milliseconds=1)))
        if inbox.called_away():
            await self._answer_call()
        else:
            moved = await workflow.execute_local_activity(contracts.mark_running, course.life, **LOCAL)
            warned = moved.state is AgentState.DRAINING and inbox.stop is not None
            if await self._record.arrived(moved, AgentState.RUNNING):
                course.running_since = workflow.now()
            elif warned and workflow.patched(WARNING_IS_GIVEN_AGAIN):
                # In a step that was lost, this run has given the warning that it is yet to give, with its grace.
                course.state, course.running_since = AgentState.RUNNING, workflow.now()
        inbox.ready = False

    async def _begin(self) -> bool:
        course = self.course
        ask = contracts.Begin(life=course.life, deadline_seconds=course.timings.ready_deadline_seconds)
        moved = await workflow.execute_local_activity(contracts.begin, ask, **LOCAL)
        if not await self._record.arrived(moved, AgentState.STARTING):
            return False
        first = course.begun == 0 and course.life.attempt == 1
        if first and course.timings.max_life_seconds and workflow.patched(LIVES_FROM_ITS_BEGIN):
            course.born_at = workflow.now()
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
            cause = error.cause
            if isinstance(cause, ApplicationError) and cause.type == contracts.LIFE_MOVED_ON:
                await self._catch_up()
            elif not inbox.called_away():
                inbox.failure = _not_made(life, error)

    async def _catch_up(self) -> None:
        """Take the row's word, which is ahead of this run: it was reset by hand to an earlier point."""
        course = self.course
        seen = await workflow.execute_local_activity(contracts.look, course.life, **LOCAL)
        if seen.state in FINAL:
            course.tell_to_stop(StopOrder(reason=EndReason.WORKFLOW_GONE, grace_seconds=0))
        elif not self._record.overtaken(seen):
            course.state = seen.state
            self.show("workflow_reset")

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
        if self._ran_before and workflow.patched(IDLE_TIME_GOES_ON):
            # Runs may follow each other more often than an agent may be idle.
            until_look = timedelta(0)
        self._ran_before = False
        while not inbox.called_away() and not self.full() and course.state is AgentState.RUNNING:
            if inbox.ahead is not None:
                await self._look_ahead()
                continue
            move = course.move
            try:
                await workflow.wait_condition(
                    partial(self._disturbed, move),
                    timeout=self._next_look(until_look),
                    timeout_summary="idle?" if move is None else "idle, or to be moved?",
                )
            except TimeoutError:
                if move is None or workflow.now() < move.deadline_at:
                    until_look = await self._look_for_activity()
            self._move_when_due()
        if inbox.called_away():
            await self._answer_call()

    def _disturbed(self, move: Move | None) -> bool:
        """Whether there is something to do before the next look; `move` is the one that is waited for."""
        inbox = self.course.inbox
        return inbox.called_away() or inbox.ahead is not None or self.full() or self.course.move != move

    async def _look_ahead(self) -> None:
        course, report = self.course, self.course.inbox.ahead
        course.inbox.ahead = None
        seen = await workflow.execute_local_activity(contracts.look, course.life, **LOCAL)
        if self._record.overtaken(seen) and report is not None and report.attempt == seen.attempt:
            course.inbox.failure = report

    def _move_when_due(self) -> None:
        course, move = self.course, self.course.move
        if course.state is not AgentState.RUNNING or move is None or course.inbox.called_away():
            return
        if workflow.now() >= move.deadline_at:
            told = f"it moves from {move.node} to another machine"
            course.inbox.failure = failure_of(course.life, FailureKind.MIGRATION, told)

    def _next_look(self, until_look: timedelta) -> timedelta:
        if self.course.move is not None:
            until_look = max(min(until_look, self.course.move.deadline_at - workflow.now()), timedelta(0))
        longest = self.course.timings.max_life_seconds
        if not longest:
            return until_look
        left = self.course.born_at + seconds(longest) - workflow.now()
        return max(min(until_look, left), timedelta(0))

    async def _look_for_activity(self) -> timedelta:
        """Pull the last activity; order a stop when there was none for too long, else say when to look again."""
        course, now = self.course, workflow.now()
        if course.timings.max_life_seconds and now - course.born_at >= seconds(course.timings.max_life_seconds):
            course.tell_to_stop(StopOrder(reason=EndReason.MAX_LIFE))
            return timedelta(0)
        seen = await workflow.execute_local_activity(contracts.look, course.life, **LOCAL)
        if self._record.overtaken(seen):
            return timedelta(0)
        if seen.state in FINAL:
            # The row was ended without us: nothing is left to do but to clear up.
            course.tell_to_stop(StopOrder(reason=EndReason.WORKFLOW_GONE, grace_seconds=0))
            return timedelta(0)
        left: timedelta = seen.last_activity_at + seconds(course.timings.idle_seconds) - now
        if left > timedelta(0):
            return left
        course.tell_to_stop(StopOrder(reason=EndReason.INACTIVITY))
        return timedelta(0)

    # ---- failing ----------------------------------------------------------------------------------------------------

    async def _answer_call(self) -> None:
        """A stop goes before a failure: who is told to go need not be mended first."""
        inbox = self.course.inbox
        if inbox.stop is not None:
            order, inbox.stop = inbox.stop, None
            self.course.move = None
            with self.alteration.leaves_for(AgentState.DRAINING):
                await self.ending.enter(order)
        elif inbox.failure is not None:
            failure, inbox.failure = inbox.failure, None
            await self._recover(failure)

    async def _recover(self, failure: FailureReport) -> None:
        course, since = self.course, self.course.running_since
        if since is not None and workflow.now() - since >= seconds(course.timings.healthy_seconds):
            course.restarts = 0
        backoff = course.timings.restart_backoff_seconds
        spent = recovery.spends(failure.kind, was_usable=since is not None)
        if not spent and course.restarts >= recovery.MAX_RESTARTS and failure.kind not in recovery.ORDERED:
            spent = not workflow.patched(LOST_HOST_ENDS_NOBODY)
        match recovery.decide(failure.kind, course.restarts, backoff, held_away=course.held_away, spent=spent):
            case Restart(after_seconds=after):
                ordered = failure.kind in recovery.ORDERED
                # What breaks in the grace before a move is begun anew where it was to go.
                away_from = course.move.node if course.move is not None else None
                restarts = course.restarts + (1 if spent else 0)
                ask = contracts.Restarting(
                    life=course.life,
                    kind=failure.kind,
                    detail=failure.detail,
                    after_seconds=after,
                    restarts=restarts,
                    away_from=away_from,
                )
                with self.alteration.leaves_for(AgentState.RESTARTING):
                    moved = await workflow.execute_local_activity(contracts.mark_restarting, ask, **LOCAL)
                if await self._record.arrived(moved, AgentState.RESTARTING, failure.kind):
                    course.restarts = restarts
                    course.pause_seconds = after
                    course.save_first = ordered
                    course.move, course.held_away = None, away_from is not None
                    course.running_since = None
            case GiveUp(reason=reason):
                with self.alteration.leaves_for(AgentState.FAILED):
                    await self._record.end(AgentState.FAILED, reason, failure.detail, within_seconds=0)

    async def _pause_and_retry(self) -> None:
        course = self.course
        within = course.timings.shutdown_seconds if course.save_first else 0
        await self._record.remove("restart", within_seconds=within)
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
            return
        rejoined = None
        if workflow.patched(PLACE_IS_GIVEN_BACK):
            rejoined = await workflow.execute_local_activity(contracts.rejoin, course.life, **LOCAL)
        stop = course.inbox.stop
        course.life = course.life.model_copy(update={"attempt": course.life.attempt + 1})
        course.inbox = Inbox(stop=stop)
        course.state = AgentState.STARTING
        if rejoined is not None and (rejoined.state, rejoined.attempt) == (AgentState.QUEUED, course.life.attempt):
            course.state, course.waits_for = AgentState.QUEUED, rejoined.waits_for
            self.show(rejoined.waits_for)


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
    return failure_of(life, kind, cause.message)
