"""Projects and who belongs to them."""

from collections.abc import Sequence

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Membership, Project, User
from core.domain.lifecycle import LIVING
from core.errors import InvalidRequest, NotFound


async def require_member(session: AsyncSession, project_id: str, user_id: str) -> None:
    """Raises `NotFound` alike for a project that is not there and for one that is not the user's."""
    if not await is_member(session, project_id, user_id):
        raise NotFound("you have no such project", action="ask_for_membership")


async def is_member(session: AsyncSession, project_id: str, user_id: str) -> bool:
    return await session.get(Membership, (project_id, user_id)) is not None


async def has_trace(session: AsyncSession, project_id: str, user_id: str) -> bool:
    """Whether the user belongs to the project or ever had an agent there."""
    member = exists().where(Membership.project_id == project_id, Membership.user_id == user_id)
    agent = exists().where(Agent.project_id == project_id, Agent.user_id == user_id)
    return bool(await session.scalar(select(member | agent)))


async def runtimes_of(session: AsyncSession, project_id: str, user_id: str) -> set[str]:
    """What ran the user's agents in the project, as far back as ended ones are kept."""
    query = select(Agent.runtime).where(Agent.project_id == project_id, Agent.user_id == user_id).distinct()
    return set((await session.scalars(query)).all())


async def put_members(session: AsyncSession, project_id: str, members: Sequence[str]) -> None:
    """Make the project if need be; exactly `members` belong to it then. Raises `InvalidRequest` for unknown users."""
    wanted = sorted(set(members))
    known = set((await session.scalars(select(User.user_id).where(User.user_id.in_(wanted)))).all())
    unknown = [user_id for user_id in wanted if user_id not in known]
    if unknown:
        raise InvalidRequest("some members are not users of Berth", code="unknown_members", unknown=unknown[:20])
    await add(session, project_id, wanted)
    leaving = delete(Membership).where(Membership.project_id == project_id, Membership.user_id.not_in(wanted))
    await session.execute(leaving)


async def add(session: AsyncSession, project_id: str, members: Sequence[str]) -> None:
    """Make the project if need be, and let `members`, all known users, belong to it too."""
    await session.execute(insert(Project).values(project_id=project_id).on_conflict_do_nothing())
    # A second change of the same project waits here, so that the last one wins as a whole.
    await session.execute(select(Project.project_id).where(Project.project_id == project_id).with_for_update())
    if members:
        rows = [{"project_id": project_id, "user_id": user_id} for user_id in members]
        await session.execute(insert(Membership).on_conflict_do_nothing(), rows)


async def agents_of_strangers(session: AsyncSession, project_id: str, limit: int = 1000) -> list[str]:
    """Living agents in the project whose user does not belong to it (any more)."""
    member = exists().where(Membership.project_id == Agent.project_id, Membership.user_id == Agent.user_id)
    states = [state.value for state in LIVING]
    query = select(Agent.agent_id).where(Agent.project_id == project_id, Agent.state.in_(states), ~member).limit(limit)
    return list((await session.scalars(query)).all())
