"""Users: who Berth knows, their tier, and how many agents they have."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Membership, User
from core.domain.lifecycle import LIVING
from core.domain.tiers import Tier
from core.errors import NotFound


class UserRecord(BaseModel):
    """A known user. A subscription without an end is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    user_id: str
    email: str | None
    tier: Tier
    subscription_active_until: datetime | None

    def subscribed(self, at: datetime) -> bool:
        return self.subscription_active_until is None or self.subscription_active_until > at


def _record(row: User) -> UserRecord:
    return UserRecord(
        user_id=row.user_id,
        email=row.email,
        tier=Tier(row.tier),
        subscription_active_until=row.subscription_active_until,
    )


async def require(session: AsyncSession, user_id: str) -> UserRecord:
    """The user. Raises `NotFound` with code `unknown_user`."""
    row = await session.get(User, user_id)
    if row is None:
        raise NotFound("Berth does not know this user", code="unknown_user", action="ask_an_administrator")
    return _record(row)


async def put(session: AsyncSession, user_id: str, **changes: object) -> UserRecord:
    """Make the user or change what is given (`email`, `tier`, `subscription_active_until`); the rest stays."""
    statement = insert(User).values(user_id=user_id, **changes)
    if changes:
        statement = statement.on_conflict_do_update(index_elements=[User.user_id], set_=changes)
    else:
        statement = statement.on_conflict_do_nothing()
    await session.execute(statement)
    row = await session.get_one(User, user_id, populate_existing=True)
    return _record(row)


async def living_agents(session: AsyncSession, user_id: str) -> int:
    """How many agents count against the user's tier now."""
    states = [state.value for state in LIVING]
    query = select(func.count()).select_from(Agent).where(Agent.user_id == user_id, Agent.state.in_(states))
    return await session.scalar(query) or 0


async def projects_of(session: AsyncSession, user_id: str, limit: int = 1000) -> list[str]:
    query = (
        select(Membership.project_id).where(Membership.user_id == user_id).order_by(Membership.project_id).limit(limit)
    )
    return list((await session.scalars(query)).all())


async def living_ids(session: AsyncSession, user_id: str, limit: int = 1000) -> list[str]:
    """Ids of the user's agents that are not over."""
    states = [state.value for state in LIVING]
    query = select(Agent.agent_id).where(Agent.user_id == user_id, Agent.state.in_(states)).limit(limit)
    return list((await session.scalars(query)).all())
