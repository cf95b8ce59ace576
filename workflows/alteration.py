"""What is changed of an agent while it runs: its size, and the machine it is to be on.

Called by handlers, which answer whoever ordered it. Only the steps of the life move it: a move is noted here, with its
deadline, and carried out there.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import contracts
    from activities.contracts import Life
    from core.domain.lifecycle import FINAL, AgentState
    from core.domain.orders import OrderAnswer, Verdict
    from core.domain.recovery import FailureKind
    from core.domain.sizes import Size
    from core.domain.timings import seconds
    from workflows.life import Course, Move
    from workflows.options import GRACE_FOLLOWS_ITS_WARNING, LOCAL, MOVE_IS_NOT_PROMISED, ORDER_REFUSALS, order_options
    from workflows.record import was_late

T = TypeVar("T")


class Alteration:
    """One order after the other, each on the attempt that runs when its turn comes."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self._turn = asyncio.Lock()
        self._on_its_way: AgentState | None = None

    @contextlib.contextmanager
    def leaves_for(self, state: AgentState) -> Iterator[None]:
        """Around what takes the agent out of running: a move noted meanwhile would be promised and forgotten."""
        self._on_its_way = state
        try:
            yield
        finally:
            self._on_its_way = None

    async def resize(self, size: Size) -> OrderAnswer:
        """Resize the attempt, then write it: an order that is refused changes nothing."""
        course = self.course
        async with self._turn:
            if course.state is not AgentState.RUNNING:
                return self._answer(Verdict.WRONG_STATE)
            life = course.life
            ask = contracts.Resize(life=life, size=size)
            done = await self._ask(
                workflow.start_activity(
                    contracts.resize_agent, ask, summary=f"resize to {size}", **order_options(life.pool)
                ),
                life,
            )
            if isinstance(done, OrderAnswer):
                return done
            moved = await workflow.execute_local_activity(contracts.mark_resized, done, **LOCAL)
            if moved.state in FINAL:
                return self._answer(Verdict.WRONG_STATE)
            if done.waits_for:
                return self._answer(Verdict.PENDING, done.waits_for)
            return self._answer(Verdict.DONE)

    async def migrate(self) -> OrderAnswer:
        """Refuse while nothing is lost yet, or warn and note the move; a second order finds the first one's."""
        course = self.course
        async with self._turn:
            if course.state is not AgentState.RUNNING:
                return self._answer(Verdict.WRONG_STATE)
            if course.move is not None:
                return self._answer(Verdict.DONE)
            life = course.life
            found = await self._ask(
                workflow.start_activity(
                    contracts.find_other_machine, life, summary="another machine", **order_options(life.pool)
                ),
                life,
            )
            if isinstance(found, OrderAnswer):
                return found
            while True:
                asked_at = workflow.now()
                move = Move(node=found.node, deadline_at=asked_at + seconds(course.timings.grace_seconds))
                warning = contracts.Migrating(life=life, node=move.node, deadline_at=move.deadline_at)
                moved = await workflow.execute_local_activity(contracts.mark_migrating, warning, **LOCAL)
                if moved.state is not AgentState.RUNNING or self._left(life):
                    return self._answer(Verdict.WRONG_STATE)
                if self._on_its_way is not None and workflow.patched(MOVE_IS_NOT_PROMISED):
                    return self._answer(Verdict.WRONG_STATE, state=self._on_its_way)
                if not was_late(asked_at) or not workflow.patched(GRACE_FOLLOWS_ITS_WARNING):
                    break
            course.move = move
            return self._answer(Verdict.DONE)

    async def _ask(self, asking: "workflow.ActivityHandle[T]", life: Life) -> T | OrderAnswer:
        """What the runtime says, or the answer to give when it refuses or the attempt goes meanwhile."""
        await workflow.wait_condition(lambda: asking.done() or self._left(life))
        if not asking.done():
            asking.cancel()
        try:
            return await asking
        except ActivityError as error:
            if self._left(life):
                return self._answer(Verdict.WRONG_STATE)
            return self._refusal(error)

    def _left(self, life: Life) -> bool:
        return self.course.state is not AgentState.RUNNING or self.course.life.attempt != life.attempt

    def _refusal(self, error: ActivityError) -> OrderAnswer:
        cause: BaseException | None = error.cause
        while cause is not None and not isinstance(cause, ApplicationError):
            cause = cause.__cause__
        if cause is None:
            return self._answer(Verdict.UNAVAILABLE, "its runtime did not answer in time")
        match cause.type:
            case "never_satisfiable":
                return self._answer(Verdict.TOO_LARGE, cause.message)
            case kind if kind in ("runtime_permanent", FailureKind.CANNOT_START, *ORDER_REFUSALS):
                return self._answer(Verdict.REFUSED, cause.message)
            case _:
                return self._answer(Verdict.UNAVAILABLE, cause.message)

    def _answer(self, verdict: Verdict, detail: str = "", *, state: AgentState | None = None) -> OrderAnswer:
        return OrderAnswer(verdict=verdict, state=state or self.course.state, detail=detail[:1000])
