"""What a user may order of an agent of theirs: stop, keep, restart, and a sign of life."""

from api.auth import Identity
from api.deps import Deps
from api.services.access import own_agent
from core.db.repositories import agents, projects, queue
from core.db.repositories.agents import AgentView
from core.domain.lifecycle import AgentState, EndReason
from core.domain.orders import StopOrder
from core.errors import Conflict


async def stop(deps: Deps, who: Identity, agent_id: str, grace_seconds: float) -> AgentView:
    """Drain it, or cancel its request. Raises `Conflict` (`wrong_state`) when its life is over."""
    view = await _own(deps, who, agent_id)
    if view.over:
        raise wrong_state(view, "its life is over")
    order = StopOrder(agent_id=agent_id, reason=EndReason.USER_REQUESTED.value, grace_seconds=grace_seconds)
    await deps.lives.stop(view, order)
    return await _own(deps, who, agent_id)


async def keep(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    """Take a warning back. Raises `Conflict` (`wrong_state`) when there is none that its user could take back."""
    view = await _members(deps, who, agent_id)
    if not (view.state is AgentState.DRAINING and view.keepable):
        ends = view.state is AgentState.DRAINING
        raise wrong_state(view, "this stop cannot be taken back" if ends else "there is no warning to take back")
    if not await deps.lives.keep(view):
        raise wrong_state(view, "its grace is over")
    return await _own(deps, who, agent_id)


async def restart(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    """Order a restart and return the agent; a failed one comes back as it is, for the caller to start anew."""
    view = await _members(deps, who, agent_id)
    if view.state is AgentState.FAILED:
        return view
    if view.state not in {AgentState.STARTING, AgentState.RUNNING, AgentState.RESTARTING}:
        raise wrong_state(view, "only an agent that runs, starts or failed can be restarted")
    if view.state is not AgentState.RESTARTING:
        await deps.lives.restart(view)
    return await _own(deps, who, agent_id)


async def note_activity(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    """Note that the user is there, which puts off the idle stop. Raises `Conflict` when its life is over."""
    async with deps.acting(who) as (session, _):
        view = await own_agent(session, who, agent_id)
        if view.over:
            raise wrong_state(view, "its life is over")
        now = deps.clock()
        await agents.touch(session, agent_id, now)
        return view.model_copy(update={"last_activity_at": max(now, view.last_activity_at)})


def wrong_state(view: AgentView, why: str) -> Conflict:
    return Conflict(f"the agent is {view.state.value}: {why}", code="wrong_state", state=view.state.value)


async def _members(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    """The caller's own agent, in a project that is the caller's still: one who was put out may only stop it."""
    async with deps.acting(who) as (session, _):
        view = await own_agent(session, who, agent_id)
        await projects.require_member(session, view.project_id, who.user_id)
        return view


async def _own(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    async with deps.acting(who) as (session, _):
        view = await own_agent(session, who, agent_id)
        return await queue.with_wait(session, view, deps.settings.rules())
