"""A run of a life as it is begun: what it is given, and by what operators find it."""

from temporalio.common import SearchAttributePair, TypedSearchAttributes

from activities.lives import life_of
from core.db.repositories.agents import AgentView
from core.domain.lifecycle import AgentState
from core.domain.orders import AbandonOrder, StartRequest
from core.domain.timings import Timings
from core.ids import keyword
from workflows.life import AgentInput, Course, Drain
from workflows.options import AGENT_ID, AGENT_POOL, AGENT_PROJECT, AGENT_STATE, AGENT_USER


def summary(request: StartRequest) -> str:
    return f"agent of {request.user_id} in {request.project_id}"[:190]


def attributes(request: StartRequest, state: AgentState) -> TypedSearchAttributes:
    return TypedSearchAttributes(
        [
            SearchAttributePair(AGENT_ID, request.agent_id),
            SearchAttributePair(AGENT_USER, keyword(request.user_id)),
            SearchAttributePair(AGENT_PROJECT, keyword(request.project_id)),
            SearchAttributePair(AGENT_POOL, keyword(request.pool)),
            SearchAttributePair(AGENT_STATE, state.value),
        ]
    )


def ending(agent: AgentView, order: AbandonOrder, timings: Timings) -> AgentInput:
    """What takes up a row that no workflow carries any more, only to end it: the last step, or out of the line."""
    request = StartRequest(
        agent_id=agent.agent_id,
        user_id=agent.user_id,
        project_id=agent.project_id,
        template=agent.template,
        pool=agent.pool,
    )
    course = Course(life=life_of(agent), timings=timings, state=agent.state, born_at=agent.created_at)
    if not agent.waiting:
        # One that was told to go goes for the reason that it was told first.
        reason = agent.reason if agent.state is AgentState.DRAINING and agent.reason else order.reason
        drain = Drain(reason=reason, detail=order.detail, deadline_at=agent.created_at, keepable=False, force=True)
        course = course.model_copy(update={"state": AgentState.DRAINING, "drain": drain})
    return AgentInput(request=request, course=course)
