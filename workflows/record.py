"""What is written of a life: its row takes each step's word first, then operators are shown where it stands."""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import contracts
    from activities.contracts import Ended, Final, Life, Moved, Successor, Usage
    from core.domain.lifecycle import FINAL, WAITING, AgentState, EndReason
    from core.domain.orders import FailureReport, StopOrder
    from core.domain.recovery import FailureKind
    from core.ids import keyword
    from workflows.life import Course
    from workflows.options import AGENT_ID, AGENT_REASON, AGENT_STATE, LOCAL
    from workflows.removal import UNSEEN, Removal


# Writing takes milliseconds, unless the database is away.
_LATE = timedelta(seconds=5)


class Record:
    """Steps write through it, so that `course` never says more than the row does."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self.removal = Removal(given_up=course.given_up)
        # Who stood in line behind this life when its row was ended.
        self.successor: Successor | None = None
        # An end is being written: the row may know of it already, and `course` will.
        self.leaving = False

    @contextlib.contextmanager
    def leaves(self) -> Iterator[None]:
        """Around the step that takes this life out of those that a start-agent call is answered with."""
        self.leaving = True
        try:
            yield
        finally:
            self.leaving = False

    async def arrived(self, moved: Moved, to: AgentState, reason: str | None = None) -> bool:
        """Take the row's word for where we are; False when someone ended this life without us."""
        course = self.course
        if self.overtaken(moved):
            return moved.state is to
        arrived = moved.applied or moved.state is to
        course.state = to if arrived else moved.state
        if moved.state in FINAL:
            await self.remove(EndReason.WORKFLOW_GONE, within_seconds=0)
        self.show(reason)
        return arrived

    def overtaken(self, moved: Moved | contracts.Activity) -> bool:
        """Whether the row is attempts ahead of this run, which was reset to an earlier point by hand; it is taken over.

        What was ordered under the old attempt did nothing then, and the caller orders it again.
        """
        course = self.course
        if moved.attempt <= course.life.attempt or moved.state in FINAL:
            return False
        course.life = course.life.model_copy(update={"attempt": moved.attempt})
        # One that waits in line has not begun the attempt that it will have.
        begun = moved.attempt if moved.state not in WAITING else 0
        course.begun, course.state, course.drain, course.move = begun, moved.state, None, None
        course.running_since = workflow.now() if moved.state is AgentState.RUNNING else None
        course.inbox.failure = None
        self.show("workflow_reset")
        return True

    async def remove(self, reason: str, *, within_seconds: float) -> None:
        """Give the agent its time to save, then have all of it removed; an order by force cuts that time short."""
        course = self.course
        used = await self.removal.carry_out(course.life, reason, within_seconds, course.inbox.forced)
        if course.counted != course.life.attempt:
            course.usage = _with(course.usage, used)
            # What nobody could tell yet, a later removal may.
            course.counted = course.life.attempt if used.cpu_seconds is not None else course.counted

    async def withdraw(self, order: StopOrder) -> None:
        """End a life that waits."""
        with self.leaves():
            ended = await withdraw(self.course.life, order, self.course.usage)
        if self.overtaken(ended):
            self.course.tell_to_stop(order)
            return
        self.course.state, self.successor = ended.state, ended.successor
        self.show(order.reason)

    async def end(self, state: AgentState, reason: str, detail: str, *, within_seconds: float) -> None:
        """Remove everything, then write the end: the slot is given back only when the runtime said gone."""
        course = self.course
        while True:
            await self.remove(reason, within_seconds=within_seconds)
            told = "; ".join(part for part in (detail, UNSEEN if self.removal.unseen else "") if part)
            ending = Final(life=course.life, state=state, reason=reason, detail=told, usage=course.usage)
            with self.leaves():
                moved = await workflow.execute_local_activity(contracts.finish, ending, **LOCAL)
            # An end is an end, also of an attempt that we learn of only now.
            if not self.overtaken(moved):
                break
        course.state = moved.state if moved.state in FINAL else state
        self.successor = moved.successor
        self.show(reason)

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


def was_late(since: datetime) -> bool:
    """Whether what was to be written at `since`, and now is, was kept waiting: a deadline in it is nearer than told."""
    return workflow.now() - since > _LATE


def failure_of(life: Life, kind: FailureKind, detail: str) -> FailureReport:
    return FailureReport(agent_id=life.agent_id, attempt=life.attempt, kind=kind, detail=detail[:1000])


async def withdraw(life: Life, order: StopOrder, used: Usage | None = None) -> Ended:
    """End a life that waits; one that was granted a slot this very moment is ended too, nothing was made for it yet.

    `used`: by attempts it had before it came into the line.
    """
    ending = Final(life=life, state=AgentState.CANCELLED, reason=order.reason, detail=order.detail, usage=used)
    return await workflow.execute_local_activity(contracts.withdraw, ending, **LOCAL)


def _with(used: Usage, more: Usage) -> Usage:
    """What attempts used that came one after the other; what nobody measured stays unknown."""
    spent = [each.cpu_seconds for each in (used, more) if each.cpu_seconds is not None]
    peaks = [each.peak_memory_bytes for each in (used, more) if each.peak_memory_bytes is not None]
    return Usage(cpu_seconds=sum(spent) if spent else None, peak_memory_bytes=max(peaks, default=None))
