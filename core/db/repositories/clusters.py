"""A cluster's room: the last look at it, and how much of it is taken."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, Text, bindparam, or_, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Cluster
from core.domain.lifecycle import HOLDING, WAITING, AgentState
from core.domain.room import Mix, Room, Snapshot, Starts
from core.domain.templates import Pool
from core.domain.thresholds import Look, look_of

# An older look says nothing about now; unknown is never free.
STALE_AFTER = timedelta(seconds=60)
# A verdict of the scheduler closes a pool no longer than this, though nothing is seen to come free: one agent may have
# asked for what the others do not.
REFUSAL_LASTS = timedelta(minutes=5)


def _spelt(states: frozenset[AgentState]) -> str:
    return ", ".join(f"'{state.value}'" for state in sorted(states))


async def last_look(session: AsyncSession, cluster: str) -> Look | None:
    """What the last look saw, however old it is."""
    row = await session.get(Cluster, cluster)
    return look_of(row.detail) if row is not None else None


async def record_look(
    session: AsyncSession, cluster: str, at: datetime, *, total: int | None, choked: bool, detail: dict[str, Any]
) -> bool:
    """Store a look; True when there may be more room than the one before said, or that said nothing any more.

    Workers look each for themselves, and may come late with what they saw: an older look than the one that is stored
    is not stored. One from a time that is yet to come, by a clock that is wrong, stands in nobody's way.
    """
    before = await session.get(Cluster, cluster)
    if before is not None and at < before.measured_at <= at + STALE_AFTER:
        return False
    roomier = before is None or (total or 0) > (before.total or 0) or _more_fits(detail, before.detail)
    grew = before is None or roomier or (before.choked and not choked) or at - before.measured_at > STALE_AFTER
    values = {"measured_at": at, "total": total, "choked": choked, "detail": detail}
    if roomier or _nodes(detail) > _nodes(before.detail if before is not None else {}):
        # Whom no machine would take may find one now.
        grew, values["refused"] = True, {}
    stored = await session.execute(
        insert(Cluster)
        .values(cluster=cluster, **values)
        .on_conflict_do_update(
            index_elements=["cluster"],
            set_=values,
            where=or_(Cluster.measured_at <= at, Cluster.measured_at > at + STALE_AFTER),
        )
        .returning(Cluster.cluster)
    )
    return grew and stored.first() is not None


def _nodes(detail: dict[str, Any]) -> int:
    look = look_of(detail)
    return look.load.nodes if look is not None else 0


def _more_fits(detail: dict[str, Any], before: dict[str, Any]) -> bool:
    """Of some template more find a place than before; what was not counted before is told by the total."""
    now, then = look_of(detail), look_of(before)
    known = {template: fit.more for fit in (then.fits if then is not None else ()) for template in fit.templates}
    return any(
        fit.more > known.get(template, fit.more)
        for fit in (now.fits if now is not None else ())
        for template in fit.templates
    )


_SEEN = text(
    f"""
    SELECT template, count(*) FROM agents
    WHERE agent_id = ANY(:ids) AND cluster = :cluster AND state NOT IN ({_spelt(WAITING)})
        AND (ended_at IS NULL OR ended_at >= :at)
    GROUP BY template
    """  # noqa: S608  the states' own names
).bindparams(bindparam("ids", type_=ARRAY(Text)), bindparam("at", type_=DateTime(timezone=True)))


async def seen(session: AsyncSession, cluster: str, agent_ids: Sequence[str], at: datetime) -> dict[str, int]:
    """Of the agents that a look which began `at` saw, how many held a slot then, by template.

    One that was over before and is still there is nobody's any more: the place it takes is not going to be free.
    """
    rows = await session.execute(_SEEN, {"ids": list(agent_ids), "cluster": cluster, "at": at})
    return {template: int(count) for template, count in rows.all()}


async def note_refusal(session: AsyncSession, cluster: str, pool: str, at: datetime) -> None:
    """An agent of the pool has no machine that would take it: nobody else of the pool is sent the same way for now."""
    await session.execute(
        text(
            "UPDATE clusters SET refused = refused || jsonb_build_object(CAST(:pool AS text), CAST(:at AS text))"
            " WHERE cluster = :cluster"
        ),
        {"cluster": cluster, "pool": pool, "at": at.isoformat()},
    )


async def forget_refusals(session: AsyncSession, cluster: str) -> None:
    """A slot came free, so there may be a place again."""
    await session.execute(
        text("UPDATE clusters SET refused = '{}' WHERE cluster = :cluster AND refused <> '{}'"), {"cluster": cluster}
    )


# States are spelt out and the two kinds counted apart: each count is then answered from its own index alone.
_ROOM = text(
    f"""
    SELECT holders.held, holders.taken, holders.starting, holders.starting_in_cluster, line.waits,
           look.total, look.choked, look.measured_at, look.detail, look.refused ->> CAST(:pool AS text) AS refused_at,
           given.capacity, given.paused
    FROM (
        SELECT count(*) FILTER (WHERE pool = :pool) AS held, count(*) FILTER (WHERE cluster = :cluster) AS taken,
               count(*) FILTER (WHERE pool = :pool AND state = '{AgentState.STARTING}') AS starting,
               count(*) FILTER (WHERE cluster = :cluster AND state = '{AgentState.STARTING}') AS starting_in_cluster
        FROM agents WHERE (pool = :pool OR cluster = :cluster) AND state IN ({_spelt(HOLDING)})
    ) AS holders
    CROSS JOIN (
        SELECT count(*) AS waits
        FROM (SELECT FROM agents WHERE pool = :pool AND state IN ({_spelt(WAITING)}) LIMIT :counted) AS those
    ) AS line
    LEFT JOIN clusters AS look ON look.cluster = :cluster
    LEFT JOIN pool_overrides AS given ON given.pool = :pool
    """  # noqa: S608  the states' own names
).bindparams(bindparam("counted", type_=BigInteger))
_TAKEN = text(
    f"SELECT template, count(*) FROM agents WHERE cluster = :cluster AND state IN ({_spelt(HOLDING)})"  # noqa: S608
    " GROUP BY template"
)
_FIRST = text(
    f"SELECT template FROM agents WHERE pool = :pool AND state IN ({_spelt(WAITING)})"  # noqa: S608
    " ORDER BY order_front, order_tier, order_fair, order_at, agent_id LIMIT 1"
)


async def room(
    session: AsyncSession,
    name: str,
    pool: Pool,
    at: datetime,
    max_waiting: int,
    template: str | None = None,
    *,
    counted: int | None = None,
) -> Room:
    """What pool `name` has now, for an agent of `template`, else of the pool's own.

    Two queries more where the cluster's templates do not all ask for the same. No more than `counted` of those that
    wait are counted, for whom that is enough: of ten thousand it takes longer than all the rest.

    The caller holds the cluster's lock when it decides by the answer.
    """
    now = (await session.execute(_ROOM, {"pool": name, "cluster": pool.cluster, "counted": counted})).one()
    snapshot, look = _snapshot(now.measured_at, now.total, at), look_of(now.detail)
    fresh = snapshot is Snapshot.FRESH
    mix = await _mix(session, pool.cluster, look, now.total) if fresh and look is not None and look.fits else None
    asked = template or pool.template
    free = now.total - now.taken if fresh else None
    if mix is not None:
        free = mix.free(asked)
    capacity = now.capacity if now.capacity is not None else pool.capacity
    return Room(
        holders=now.held,
        waiting=now.waits,
        # A pool without a capacity of its own takes what its cluster has.
        capacity=capacity if capacity is not None else (now.held + max(free, 0) if free is not None else None),
        cluster_free=free,
        template=asked,
        bounded=capacity is not None,
        paused=bool(now.paused),
        choked=bool(now.choked),
        refused=now.refused_at is not None and at - datetime.fromisoformat(now.refused_at) <= REFUSAL_LASTS,
        held_up=mix is not None and now.waits > 0 and await _held_up(session, name, look, mix),
        snapshot=snapshot,
        look=look,
        mix=mix,
        max_waiting=max_waiting,
        starts=Starts(now=now.starting, most=pool.max_starting),
        starts_in_cluster=Starts(now=now.starting_in_cluster, most=_in_cluster(pool, look)),
        too_large=look.too_large.get(template) if fresh and look is not None and template is not None else None,
    )


async def _mix(session: AsyncSession, cluster: str, look: Look, total: int) -> Mix:
    taken = {template: int(count) for template, count in (await session.execute(_TAKEN, {"cluster": cluster})).all()}
    return Mix(fits=look.fits, seen=look.seen, taken=taken, total=total)


async def _held_up(session: AsyncSession, pool: str, look: Look | None, mix: Mix) -> bool:
    first = await session.scalar(_FIRST, {"pool": pool})
    hopeless = look is not None and first in look.too_large
    return first is not None and not hopeless and mix.free(first) <= 0


def _in_cluster(pool: Pool, look: Look | None) -> int | None:
    """How many of the cluster may start at once; where nobody has seen a machine, that of the pool alone holds."""
    if pool.max_starting_per_node is None or look is None or not look.load.nodes:
        return None
    return pool.max_starting_per_node * look.load.nodes


def _snapshot(measured_at: datetime | None, total: int | None, at: datetime) -> Snapshot:
    if measured_at is None or total is None:
        return Snapshot.UNKNOWN
    return Snapshot.FRESH if at - measured_at <= STALE_AFTER else Snapshot.STALE
