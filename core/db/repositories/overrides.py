"""What an operator changed of a pool while it runs: its capacity, and whether it is paused."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import PoolOverride


class Override(BaseModel):
    """`capacity` None: the settings say it, or what fits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    capacity: int | None
    paused: bool


async def of_pool(session: AsyncSession, pool: str) -> Override | None:
    """None: nothing was ever changed."""
    row = await session.get(PoolOverride, pool)
    return Override(capacity=row.capacity, paused=row.paused) if row else None


async def change(session: AsyncSession, pool: str, *, capacity: int | None, paused: bool | None) -> None:
    """Change what is given of a pool's capacity and pause; None leaves a value as it is."""
    given = {key: value for key, value in {"capacity": capacity, "paused": paused}.items() if value is not None}
    statement = insert(PoolOverride).values(pool=pool, **given)
    if given:
        statement = statement.on_conflict_do_update(index_elements=["pool"], set_=given)
    else:
        statement = statement.on_conflict_do_nothing()
    await session.execute(statement)


async def forget_capacity(session: AsyncSession, pool: str) -> None:
    """Let the settings (or what fits) say the pool's capacity again."""
    await session.execute(update(PoolOverride).where(PoolOverride.pool == pool).values(capacity=None))
