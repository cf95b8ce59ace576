"""Places in line that are owed: who was evicted comes back before those who came after the eviction."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import EvictionCredit

# The letter about the eviction (`core.domain.letters`) says half an hour.
LASTS = timedelta(minutes=30)


async def give(session: AsyncSession, user_id: str, project_id: str, at: datetime) -> bool:
    """Owe the user a place from `at` on, at the next request for this project within half an hour; twice does no harm.

    False when it was owed already: only a start uses it up, so this is the eviction that gave it, tried once more. The
    user's own stop gives none. Call it in the transaction that writes the eviction.
    """
    values = {"evicted_at": at, "until": at + LASTS}
    given = insert(EvictionCredit).values(user_id=user_id, project_id=project_id, **values)
    # The earlier moment stays while it is good: an eviction that is written again is the same eviction.
    anew = given.on_conflict_do_update(
        index_elements=["user_id", "project_id"], set_=values, where=EvictionCredit.until <= at
    )
    return await session.scalar(anew.returning(EvictionCredit.user_id)) is not None


async def owed(session: AsyncSession, user_id: str, project_id: str, at: datetime) -> datetime | None:
    """The moment of the eviction that a request at `at` may count from; None: nothing is owed."""
    credit = await session.scalar(
        select(EvictionCredit.evicted_at).where(
            EvictionCredit.user_id == user_id, EvictionCredit.project_id == project_id, EvictionCredit.until > at
        )
    )
    # A clock that was put back since makes nobody wait longer.
    return min(credit, at) if credit is not None else None


async def take(session: AsyncSession, user_id: str, project_id: str) -> None:
    """Use up what is owed: the request that counts from it was let in."""
    await session.execute(
        delete(EvictionCredit).where(EvictionCredit.user_id == user_id, EvictionCredit.project_id == project_id)
    )


async def purge(session: AsyncSession, now: datetime) -> None:
    """Drop what nobody used in time."""
    await session.execute(delete(EvictionCredit).where(EvictionCredit.until <= now))
