"""Whose agent it is: the one place that turns a stranger's question into 404."""

from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Identity
from core.db.repositories import agents, projects
from core.db.repositories.agents import AgentView
from core.errors import NotFound


async def own_agent(session: AsyncSession, who: Identity, agent_id: str) -> AgentView:
    """The caller's own agent. Raises `NotFound` alike for one that is not there and for someone else's."""
    view = await agents.get(session, agent_id)
    if view is None or view.user_id != who.user_id:
        raise NotFound("you have no such agent")
    return view


async def members_agent(session: AsyncSession, who: Identity, agent_id: str) -> AgentView:
    """The caller's own agent, in a project that is the caller's still: one who was put out may only stop it."""
    view = await own_agent(session, who, agent_id)
    await projects.require_member(session, view.project_id, who.user_id)
    return view


async def readable_agent(session: AsyncSession, who: Identity, agent_id: str) -> AgentView:
    """Like `own_agent`, but administrators may look at everyone's."""
    view = await agents.get(session, agent_id)
    if view is None or not (who.is_admin or view.user_id == who.user_id):
        raise NotFound("you have no such agent")
    return view
