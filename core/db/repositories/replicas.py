"""API processes that are up, and since when without a gap; an agent's silence counts only in that time."""

from datetime import timedelta

from sqlalchemy import case, delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Replica
from core.db.repositories.upkeep import REPLICA_GAP


async def beat(session: AsyncSession, replica: str, gap: timedelta = REPLICA_GAP) -> None:
    """Say that the process is up. After more than `gap` without it, it counts as up from now on only."""
    now = func.clock_timestamp()
    fresh = Replica.seen_at > now - gap
    await session.execute(
        insert(Replica)
        .values(replica=replica, up_since=now, seen_at=now)
        .on_conflict_do_update(
            index_elements=[Replica.replica],
            set_={"seen_at": now, "up_since": case((fresh, Replica.up_since), else_=now)},
        )
    )


async def leave(session: AsyncSession, replica: str) -> None:
    await session.execute(delete(Replica).where(Replica.replica == replica))
