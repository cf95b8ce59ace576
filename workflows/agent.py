"""The workflow of one user's project: what may be asked of it, and one life after the other.

`workflow cancel` is a stop without grace. `workflow terminate` runs no code of ours: the reaper clears up behind it.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import contracts
    from activities.contracts import Final, Registered, Registration, Successor
    from core.domain.lifecycle import CURRENT, FINAL, WAITING, AgentState, EndReason
    from core.domain.orders import (
        AbandonOrder,
        FailureReport,
        Grant,
        KeepOrder,
        MigrateOrder,
        OrderAnswer,
        ReadyReport,
        ResizeOrder,
        RestartOrder,
        StartAnswer,
        StartOutcome,
        StartRequest,
        StopOrder,
        Verdict,
    )
    from core.domain.recovery import FailureKind
    from core.ids import keyword
    from workflows.life import AgentInput, Course, KeepAnswer, added
    from workflows.onward import ONTO_CURRENT, Onward
    from workflows.options import (
        AGENT_ID,
        AGENT_POOL,
        AGENT_STATE,
        END_IS_AWAITED,
        FAILURE_STANDS,
        KEEP_IS_ON_RECORD,
        LOCAL,
        REFUSAL_IS_OF_ITS_TEMPLATE,
        RESET_IS_NOTICED,
        STOP_GOES_FIRST,
        WARNING_IS_AWAITED,
    )
    from workflows.passage import Passage
    from workflows.record import failure_of, withdraw
    from workflows.removal import UNSEEN, Removal


# Any timer ends the step that it is begun in, and what that step was told is then on record.
_A_MOMENT = timedelta(milliseconds=1)


@workflow.defn(name="AgentWorkflow")
class AgentWorkflow:
    @workflow.init
    def __init__(self, start: AgentInput) -> None:
        self._start = start
        self._onward = Onward(start.history_limit)
        self._passage: Passage | None = self._passage_of(start.course) if start.course else None
        # The first decision of this run, once it is made; None in a run that was handed on.
        self._answer: StartAnswer | None = None
        self._successor: Course | None = None
        self._registering = asyncio.Lock()
        self._early_stop: StopOrder | None = None
        # Every agent that a handler of this run registered: what became of it is known here.
        self._registered: set[str] = set()
        self._clearing = Removal()
        self._cleared: str | None = None

    def _passage_of(self, course: Course) -> Passage:
        return Passage(course, self._onward)

    @workflow.run
    async def run(self, start: AgentInput) -> None:
        whole = asyncio.create_task(self._live())
        try:
            onward = await asyncio.shield(whole)
        except asyncio.CancelledError:
            # A cancel is one more way to be told to stop: the same steps run to their end, none is torn apart.
            order = StopOrder(reason=EndReason.CANCELLED, grace_seconds=0)
            self._tell_to_stop(order)
            await self._withdraw_successor(order)
            onward = await whole
            if onward is None:
                raise
        if onward is not None:
            workflow.continue_as_new(
                onward, search_attributes=_attributes_of(onward), initial_versioning_behavior=ONTO_CURRENT
            )

    async def _live(self) -> AgentInput | None:
        """Live until the end, or until this run is full; return what the next run starts from."""
        if self._passage is None:
            await self._register_first()
        else:
            self._passage.show(self._passage.course.why())
        passage = self._passage
        while passage is not None and not passage.over and not await self._may_hand_on(passage):
            await passage.step()
        await workflow.wait_condition(workflow.all_handlers_finished)
        if passage is not None and not passage.over:
            return self._start.model_copy(update={"course": passage.course})
        if passage is not None and passage.left_behind is not None:
            await self._take_up(passage.left_behind)
        if self._successor is not None:
            request = self._start.request.model_copy(update={"agent_id": self._successor.life.agent_id, "key": None})
            return self._start.model_copy(update={"request": request, "course": self._successor})
        return None

    async def _take_up(self, found: Successor) -> None:
        """Carry out what was accepted and forgotten: the server drops a start together with the workflow task that
        fails around it, and when its caller is gone too, all that is left of it is its row."""
        if found.life.agent_id in self._registered:
            return
        early = self._early_stop
        if early is not None and early.agent_id in (None, found.life.agent_id):
            await withdraw(found.life, early)
            # A start that came meanwhile is carried out, or its row would be nobody's.
            await workflow.wait_condition(workflow.all_handlers_finished)
            return
        self._successor = Course(
            life=found.life,
            timings=found.timings,
            state=found.state,
            born_at=workflow.now(),
            waits_for=found.waits_for,
        )

    async def _may_hand_on(self, passage: Passage) -> bool:
        """Whether this run is full and nobody waits for an answer from it.

        A keep is answered by one more step, and a stop or a failure does not wait for an order that takes long.
        """
        if not passage.full():
            return False
        inbox = passage.course.inbox
        await workflow.wait_condition(
            lambda: workflow.all_handlers_finished() or passage.ending.keep_asked or inbox.called_away()
        )
        return workflow.all_handlers_finished()

    # ---- registering ------------------------------------------------------------------------------------------------

    async def _register_first(self) -> None:
        async with self._registering:
            registered = await self._register(self._start.request, predecessor=None)
            course = self._course_of(registered)
            if course is not None:
                early = self._early_stop
                if early is not None and early.agent_id in (None, course.life.agent_id):
                    course.inbox.stop = early
                self._passage = self._passage_of(course)
                self._passage.show(registered.answer.reason if registered.answer else None)
            self._answer = registered.answer

    async def _register(self, request: StartRequest, predecessor: str | None) -> Registered:
        ask = Registration(request=request, workflow_id=workflow.info().workflow_id, predecessor=predecessor)
        while True:
            registered: Registered = await workflow.execute_local_activity(contracts.register, ask, **LOCAL)
            if registered.answer is not None:
                return registered
            # A run of this id was terminated by hand and the reaper has not come by yet: clear up behind it first.
            for life in registered.leftovers:
                self._cleared, self._clearing = life.agent_id, Removal()
                used = await self._clearing.carry_out(life, EndReason.WORKFLOW_GONE)
                self._cleared = None
                detail = UNSEEN if self._clearing.unseen else ""
                ending = Final(
                    life=life, state=AgentState.TERMINATED, reason=EndReason.WORKFLOW_GONE, detail=detail, usage=used
                )
                await workflow.execute_local_activity(contracts.finish, ending, **LOCAL)

    async def _register_behind(self, request: StartRequest, predecessor: str | None) -> Registered:
        """Register a successor. One that this run has forgotten is the answer, unless it was told to go."""
        self._registered.add(request.agent_id)
        while True:
            registered = await self._register(request, predecessor)
            found, early = registered.life, self._early_stop
            if found is None or found.agent_id == request.agent_id:
                return registered
            self._registered.add(found.agent_id)
            if early is None or early.agent_id not in (None, found.agent_id):
                return registered
            # Also when whoever heard of it is just about to write so.
            await withdraw(found, early)

    def _course_of(self, registered: Registered) -> Course | None:
        if registered.life is None or registered.state is None or registered.timings is None:
            return None
        return Course(
            life=registered.life,
            timings=registered.timings,
            state=registered.state,
            born_at=workflow.now(),
            waits_for=registered.answer.reason if registered.answer else None,
            # With room for it the first attempt began in the very transaction that registered it.
            begun=registered.life.attempt if registered.begun else 0,
        )

    # ---- what may be asked ------------------------------------------------------------------------------------------

    @workflow.update
    async def start(self, request: StartRequest) -> StartAnswer:
        """Answer a start-agent call: with the first decision, with the living agent, or with a successor in line."""
        if (request.user_id, request.project_id) != (self._start.request.user_id, self._start.request.project_id):
            raise ApplicationError("this workflow is of another user's project", type="invalid_request")
        await workflow.wait_condition(lambda: self._answer is not None or self._passage is not None)
        async with self._registering:
            passage = self._passage
            if passage is None and not self._may_be_let_in(request):
                return self._answer or StartAnswer(outcome=StartOutcome.REJECTED)
            if passage is not None and passage.is_going() and workflow.patched(STOP_GOES_FIRST):
                # Its user may have read of the end in the row before this run took that step, or took it again.
                await workflow.wait_condition(lambda: not passage.is_going())
            elif passage is not None and passage.leaving and workflow.patched(END_IS_AWAITED):
                await workflow.wait_condition(lambda: not passage.leaving)
            if passage is not None and passage.course.state in CURRENT:
                return self._answer_of(passage.course, request)
            if self._successor is None:
                predecessor = passage.course.life.agent_id if passage is not None else None
                registered = await self._register_behind(request, predecessor)
                self._successor = self._course_of(registered)
                early = self._early_stop
                if early is not None and early.agent_id == request.agent_id:
                    await self._withdraw_successor(early)
                return registered.answer or StartAnswer(outcome=StartOutcome.REJECTED)
            return self._answer_of(self._successor, request)

    def _may_be_let_in(self, request: StartRequest) -> bool:
        """Whether what this run refused leaves open what is asked now; it is the first life of the next run then."""
        refused = self._start.request
        same = (request.template, request.pool) == (refused.template, refused.pool)
        return not same and workflow.patched(REFUSAL_IS_OF_ITS_TEMPLATE)

    def _answer_of(self, course: Course, request: StartRequest) -> StartAnswer:
        agent_id = course.life.agent_id
        if course.state in WAITING:
            return StartAnswer(outcome=StartOutcome.QUEUED, agent_id=agent_id, reason=course.waits_for)
        outcome = StartOutcome.CREATED if request.agent_id == agent_id else StartOutcome.EXISTING
        return StartAnswer(outcome=outcome, agent_id=agent_id)

    @workflow.update
    async def keep(self, order: KeepOrder | None = None) -> KeepAnswer:
        """Take the warning back while its grace runs and its reason allows; says what came of it."""
        passage, order = self._passage, order or KeepOrder()
        if passage is None or order.agent_id not in (None, passage.course.life.agent_id):
            return KeepAnswer(kept=False, state=AgentState.TERMINATED)
        if passage.is_going() and workflow.patched(STOP_GOES_FIRST):
            # Its user may have read of the warning in the row before this run took that step, or took it again.
            await workflow.wait_condition(lambda: not passage.is_going())
        elif passage.is_told() and workflow.patched(WARNING_IS_AWAITED):
            await workflow.wait_condition(lambda: not passage.is_told())
        # A successor in line has taken the place, and while one is being registered it is not known who has it.
        async with self._registering:
            if self._may_keep(passage) and workflow.patched(KEEP_IS_ON_RECORD):
                # Else the server might forget it together with a step that has written it already, and dies: the row
                # would say `running` of an agent that this workflow ends when the grace is over.
                await workflow.sleep(_A_MOMENT, summary="kept, once this is on record")
            if self._may_keep(passage):
                passage.ending.keep_asked = True
                await workflow.wait_condition(lambda: not passage.ending.keep_asked)
        return KeepAnswer(kept=passage.course.state is AgentState.RUNNING, state=passage.course.state)

    def _may_keep(self, passage: Passage) -> bool:
        return self._successor is None and passage.ending.may_be_kept()

    @workflow.update
    async def resize(self, order: ResizeOrder) -> OrderAnswer:
        """Give the running agent other limits, kept for all its later attempts; says what came of it."""
        passage = self._passage
        if passage is None or order.agent_id not in (None, passage.course.life.agent_id):
            return OrderAnswer(verdict=Verdict.WRONG_STATE, state=AgentState.TERMINATED)
        return await passage.alteration.resize(order.size)

    @workflow.update
    async def migrate(self, order: MigrateOrder | None = None) -> OrderAnswer:
        """Have the running agent moved to another machine after a warning; refused when no other would take it."""
        passage, order = self._passage, order or MigrateOrder()
        if passage is None or order.agent_id not in (None, passage.course.life.agent_id):
            return OrderAnswer(verdict=Verdict.WRONG_STATE, state=AgentState.TERMINATED)
        return await passage.alteration.migrate()

    @workflow.signal
    async def stop(self, order: StopOrder | None = None) -> None:
        """Drain this life, or withdraw the successor that waits behind it; an order without a name is for both."""
        # Signals are also typed by hand: one without words is an operator's order, a report without words says nothing.
        order = order or StopOrder()
        self._tell_to_stop(order)
        await self._withdraw_successor(order)

    async def _withdraw_successor(self, order: StopOrder) -> None:
        successor = self._successor
        if successor is not None and order.agent_id in (None, successor.life.agent_id):
            self._successor = None
            await withdraw(successor.life, order)

    def _tell_to_stop(self, order: StopOrder) -> None:
        if self._passage is not None and order.agent_id in (None, self._passage.course.life.agent_id):
            self._passage.course.tell_to_stop(order)
        if self._passage is None or order.agent_id != self._passage.course.life.agent_id:
            # Told before the decision that it speaks of has come back to us: let it be made, then stop. It is of no use
            # to anybody by then, so nobody is warned.
            early = self._early_stop
            same = early is not None and early.agent_id == order.agent_id
            self._early_stop = added(early, order, usual_grace=0) if same else order

    @workflow.signal
    async def abandon(self, order: AbandonOrder | None = None) -> None:
        """Stop by force, and end without the runtime's word where it does not answer: an operator's alone."""
        order = order or AbandonOrder()
        passage = self._passage
        if passage is not None and order.agent_id in (None, passage.course.life.agent_id):
            passage.give_up_on_runtime()
        if self._cleared is not None and order.agent_id in (None, self._cleared):
            self._clearing.give_up()
        await self.stop(StopOrder(agent_id=order.agent_id, reason=order.reason, force=True, detail=order.detail))

    @workflow.signal
    def restart(self, order: RestartOrder | None = None) -> None:
        course, order = self._passage.course if self._passage else None, order or RestartOrder()
        if course is None or course.state not in (AgentState.STARTING, AgentState.RUNNING):
            return
        if order.agent_id not in (None, course.life.agent_id):
            return
        # A failure that was not acted upon yet leads to a restart of its own, unless it is for good.
        if course.inbox.failure is None or not workflow.patched(FAILURE_STANDS):
            course.inbox.failure = failure_of(course.life, FailureKind.USER_RESTART, "asked for by the user")

    @workflow.signal
    def hand_on(self) -> None:
        """Go on in a new run as soon as no step is under way: with the workers that are current, where they differ."""
        self._onward.told = True

    @workflow.signal
    def admitted(self, grant: Grant | None = None) -> None:
        for course in (self._passage.course if self._passage else None, self._successor):
            if course is not None and _speaks_of(course, grant):
                course.inbox.granted = True

    @workflow.signal
    def ready(self, report: ReadyReport | None = None) -> None:
        course = self._passage.course if self._passage else None
        if course is not None and _speaks_of(course, report):
            course.inbox.ready = True

    @workflow.signal
    def failed(self, report: FailureReport | None = None) -> None:
        course = self._passage.course if self._passage else None
        if course is None or report is None or report.agent_id != course.life.agent_id:
            return
        if report.attempt > course.life.attempt:
            # Whoever told has seen an attempt that we have not made: this run may have been reset to an earlier point.
            if course.state is AgentState.RUNNING and workflow.patched(RESET_IS_NOTICED):
                course.inbox.ahead = report
            return
        if not _speaks_of(course, report):
            return
        if course.state not in WAITING and course.state not in FINAL and course.state is not AgentState.RESTARTING:
            course.inbox.failure = report


def _attributes_of(onward: AgentInput) -> TypedSearchAttributes:
    """The next run bears the name of its life from its first moment: the reaper goes by it, and a run may wait a second
    for its first task."""
    known = workflow.info().typed_search_attributes
    if onward.course is None:
        return known
    return known.updated(
        SearchAttributePair(AGENT_ID, onward.course.life.agent_id),
        SearchAttributePair(AGENT_STATE, onward.course.state.value),
        SearchAttributePair(AGENT_POOL, keyword(onward.course.life.pool)),
    )


def _speaks_of(course: Course, word: Grant | ReadyReport | FailureReport | None) -> bool:
    return word is not None and (word.agent_id, word.attempt) == (course.life.agent_id, course.life.attempt)
