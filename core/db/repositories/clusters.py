"""A cluster's room: the last look at it, and how much of it is taken."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Cluster, PoolOverride
from core.domain.admission import Room
from core.domain.lifecycle import HOLDING, WAITING, AgentState
from core.domain.templates import Pool

# An older look says nothing about now; unknown is never free.
STALE_AFTER = timedelta(seconds=60)


def _spelt(states: frozenset[AgentState]) -> str:
    return ", ".join(f"'{state.value}'" for state in sorted(states))


async def lock_cluster(session: AsyncSession, cluster: str) -> None:
    """Let one transaction at a time give or free room of a cluster; held until the end of the transaction."""
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 2))"), {"name": cluster})


async def lock_user(session: AsyncSession, user_id: str) -> None:
    """Let one transaction at a time count and add a user's agents."""
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))"), {"name": user_id})


async def record_look(
    session: AsyncSession, cluster: str, at: datetime, *, total: int | None, choked: bool, detail: dict[str, Any]
) -> bool:
    """Store a look; True when there may be more room than the one before said."""
    before = await session.get(Cluster, cluster)
    grew = before is None or (total or 0) > (before.total or 0) or (before.choked and not choked)
    values = {"measured_at": at, "total": total, "choked": choked, "detail": detail}
    await session.execute(
        insert(Cluster).values(cluster=cluster, **values).on_conflict_do_update(index_elements=["cluster"], set_=values)
    )
    return grew


# States are spelt out and the two kinds counted apart: each count is then answered from its own index alone.
_ROOM = text(
    f"""
    SELECT holders.held, line.waits, holders.taken,
           look.total, look.choked, look.measured_at, given.capacity, given.paused
    FROM (
        SELECT count(*) FILTER (WHERE pool = :pool) AS held, count(*) FILTER (WHERE cluster = :cluster) AS taken
        FROM agents WHERE (pool = :pool OR cluster = :cluster) AND state IN ({_spelt(HOLDING)})
    ) AS holders
    CROSS JOIN (SELECT count(*) AS waits FROM agents WHERE pool = :pool AND state IN ({_spelt(WAITING)})) AS line
    LEFT JOIN clusters AS look ON look.cluster = :cluster
    LEFT JOIN pool_overrides AS given ON given.pool = :pool
    """  # noqa: S608  the states' own names
)


async def room(session: AsyncSession, name: str, pool: Pool, at: datetime, max_waiting: int) -> Room:
    """What pool `name` has now. The caller holds the cluster's lock when it decides by the answer."""
    now = (await session.execute(_ROOM, {"pool": name, "cluster": pool.cluster})).one()
    known = now.total is not None and at - now.measured_at <= STALE_AFTER
    free = now.total - now.taken if known else None
    capacity = now.capacity if now.capacity is not None else pool.capacity
    return Room(
        holders=now.held,
        waiting=now.waits,
        # A pool without a capacity of its own takes what its cluster has.
        capacity=capacity if capacity is not None else (now.held + max(free, 0) if free is not None else None),
        cluster_free=free,
        paused=bool(now.paused),
        choked=bool(now.choked),
        max_waiting=max_waiting,
    )


async def override_pool(session: AsyncSession, pool: str, *, capacity: int | None, paused: bool | None) -> None:
    """Change what is given of a pool's capacity and pause; None leaves a value as it is."""
    given = {key: value for key, value in {"capacity": capacity, "paused": paused}.items() if value is not None}
    statement = insert(PoolOverride).values(pool=pool, **given)
    if given:
        statement = statement.on_conflict_do_update(index_elements=["pool"], set_=given)
    else:
        statement = statement.on_conflict_do_nothing()
    await session.execute(statement)
