"""What a user may order of an agent of theirs: stop, keep, restart, and a sign of life."""

import math

from api.auth import Identity
from api.deps import Deps
from api.services.access import members_agent, own_agent
from core.db.repositories import agents, idempotency, queue
from core.db.repositories.agents import AgentView
from core.db.repositories.idempotency import KeyedBy
from core.domain import stops
from core.domain.lifecycle import AgentState, EndReason
from core.domain.orders import StopOrder
from core.errors import BerthError, Conflict, Unavailable

_RESTARTABLE = frozenset({AgentState.STARTING, AgentState.RUNNING, AgentState.RESTARTING})


async def stop(deps: Deps, who: Identity, agent_id: str, grace_seconds: float) -> AgentView:
    """Drain it, or cancel its request. Raises `Conflict` (`wrong_state`) when its life is over."""
    view = await _own(deps, who, agent_id)
    if view.over:
        raise wrong_state(view, "its life is over")
    order = StopOrder(agent_id=agent_id, reason=EndReason.USER_REQUESTED.value, grace_seconds=grace_seconds)
    usual, now = deps.settings.timings_of_living(view.template).grace_seconds, deps.clock()
    # One that changes nothing is not passed on: a workflow takes so many orders, and who repeats one would use them up.
    if view.state is not AgentState.DRAINING or stops.hastens(
        order, view.deadline_at, now, usual, keepable=view.keepable
    ):
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


async def restart(deps: Deps, who: Identity, agent_id: str, key: str | None = None) -> tuple[AgentView, bool]:
    """Order a restart; the agent, and whether it failed, so that the caller is to start it anew.

    A key means the attempt that it came for first: who asks again because no answer came restarts nothing twice, and is
    told how the agent is now. Raises `Unavailable` (`workflow_gone`), and forgets the key, when nothing carries the
    agent's life on: an operator ended its workflow, and the reaper has not ended the agent yet.
    """
    view = await _members(deps, who, agent_id)
    meant = None
    if key is not None:
        view, meant = await _meant(deps, who, agent_id, key)
    if meant is not None and (view.attempt != meant or view.state not in _RESTARTABLE):
        return await _own(deps, who, agent_id), False
    if view.state is AgentState.FAILED:
        return view, True
    if view.state not in _RESTARTABLE:
        raise wrong_state(view, "only an agent that runs, starts or failed can be restarted")
    if view.state is AgentState.RESTARTING or await deps.lives.restart(view):
        return await _own(deps, who, agent_id), False
    raise await _untaken(deps, who, agent_id, key)


async def note_activity(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    """Note that the user is there, which puts off the idle stop. Raises `Conflict` when its life is over."""
    async with deps.acting(who) as (session, _):
        view = await members_agent(session, who, agent_id)
        if view.over:
            raise wrong_state(view, "its life is over")
        now = deps.clock()
        await agents.touch(session, agent_id, now)
        return view if view.waiting else view.model_copy(update={"last_activity_at": max(now, view.last_activity_at)})


def wrong_state(view: AgentView, why: str) -> Conflict:
    return Conflict(f"the agent is {view.state.value}: {why}", code="wrong_state", state=view.state.value)


async def _meant(deps: Deps, who: Identity, agent_id: str, key: str) -> tuple[AgentView, int | None]:
    """The agent, and the attempt that the key came for before; None: it comes for the first time, or came in vain."""
    by = KeyedBy(user_id=who.user_id, scope=idempotency.restart_scope(agent_id), key=key, body_hash="")
    async with deps.acting(who) as (session, _):
        kept = await idempotency.claim(session, by, deps.clock())
        # Read behind whoever had the key a moment ago.
        view = await own_agent(session, who, agent_id)
        if kept.body is None and view.state in _RESTARTABLE:
            await idempotency.store(session, by, None, 202, {"attempt": view.attempt})
    return view, None if kept.body is None else int(kept.body["attempt"])


async def _untaken(deps: Deps, who: Identity, agent_id: str, key: str | None) -> BerthError:
    """Why no workflow took a restart: the life ended just now, or is still to be ended. Nothing was restarted."""
    async with deps.acting(who) as (session, _):
        if key is not None:
            await idempotency.forget(session, who.user_id, idempotency.restart_scope(agent_id), key)
        view = await own_agent(session, who, agent_id)
    if view.over:
        return wrong_state(view, "its life is over")
    return Unavailable(
        "nothing carries this agent's life on; it is about to be ended, then start anew",
        code="workflow_gone",
        retry_after=math.ceil(deps.settings.timings.reap_seconds),
    )


async def _members(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    async with deps.acting(who) as (session, _):
        return await members_agent(session, who, agent_id)


async def _own(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    async with deps.acting(who) as (session, _):
        view = await own_agent(session, who, agent_id)
        return await queue.with_wait(session, view, deps.settings.rules())
