"""What comes and goes in a pool: counted as it happens, under its cluster's lock, and read to foretell waits."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import DateTime, bindparam, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import LifeStatistic
from core.db.repositories import clusters
from core.domain.admission import Rules
from core.domain.lifecycle import HOLDING, AgentState
from core.domain.queueing import OrderKey
from core.domain.room import Room, free_slots
from core.domain.tiers import Tier, rank
from core.domain.waits import Flow, Pace, Wait, foretell, later_of, overtakers, until_place

# Taken for a start until an agent of the pool runs.
_START_SECONDS = 10
# Spelt out, so that the index of holders serves it whatever plan is kept.
_HOLDING = ", ".join(f"'{state.value}'" for state in sorted(HOLDING))


class Turnover(BaseModel):
    """A pool's slots and flow at one moment.

    `above` is how many more hold a slot than the pool has; `spare` are places that are free, though not everybody may
    start at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: datetime
    active: int
    above: int
    spare: int
    pace: Pace
    flow: Flow
    # Taken for a life until lives were measured.
    lifespan_minutes: float

    def wait(self, position: int, key: OrderKey, tier: Tier, others: int, since: datetime) -> Wait:
        """How long place `position` takes: until a slot is there, and until all before it have started."""
        started = until_place(position, self.pace)
        if position <= self.spare:
            return started
        later = overtakers(self.flow, key, tier, others, since, self.at)
        # By the time anybody leaves for this one, those before it hold the places that are free now.
        active = self.active + self.spare
        return later_of(
            foretell(position - self.spare + self.above, active, self.flow, later, self.lifespan_minutes), started
        )

    def next_grant(self) -> Wait:
        """Until the first in line is let in, and the line has room for one more at its end."""
        if self.spare:
            return until_place(1, self.pace)
        return foretell(1 + self.above, self.active, self.flow, (), self.lifespan_minutes)


_NOW = text(
    f"""
    SELECT moment.at, held.active, held.minutes AS held_minutes, held.start_seconds,
           known.mean_minutes, known.weight, known.minutes, known.arrivals, known.counted_at
    FROM (SELECT coalesce(CAST(:at AS timestamptz), now()) AS at) AS moment
    LEFT JOIN life_statistics AS known ON known.pool = :pool
    CROSS JOIN LATERAL (
        SELECT count(*) AS active,
               coalesce(sum(greatest(extract(epoch FROM moment.at - greatest(admitted_at, known.counted_at)), 0)), 0)
                   / 60 AS minutes,
               avg(extract(epoch FROM ready_at - started_at)) FILTER (
                   WHERE state = '{AgentState.RUNNING}' AND ready_at > started_at
               ) AS start_seconds
        FROM agents WHERE pool = :pool AND state IN ({_HOLDING})
    ) AS held
    """  # noqa: S608  the states' own names
).bindparams(bindparam("at", type_=DateTime(timezone=True)))


async def turnover(session: AsyncSession, pool: str, rules: Rules, room: Room | None = None) -> Turnover:
    """As it is now, by the database's clock; `room`: what the pool was just seen to have."""
    row = (await session.execute(_NOW, {"pool": pool, "at": None})).one()
    known = _flow(row.mean_minutes, row.weight, row.minutes, row.arrivals, row.counted_at)
    if room is None and pool in rules.pools:
        room = await clusters.room(session, pool, rules.pools[pool], row.at, rules.max_waiting, counted=1)
    capacity = room.capacity if room is not None else None
    return Turnover(
        at=row.at,
        active=row.active,
        above=max(row.active - capacity, 0) if capacity is not None else 0,
        spare=free_slots(room) if room is not None and not room.held_up else 0,
        pace=Pace(
            at_once=room.starts_at_once if room is not None else None,
            minutes=float(row.start_seconds if row.start_seconds is not None else _START_SECONDS) / 60,
        ),
        flow=known.until(row.at, float(row.held_minutes)),
        lifespan_minutes=rules.lifespan_minutes,
    )


async def departed(session: AsyncSession, pool: str, at: datetime) -> None:
    """Count an agent that gives its slot back, while its row still holds it."""
    row = (await session.execute(_NOW, {"pool": pool, "at": at})).one()
    known = _flow(row.mean_minutes, row.weight, row.minutes, row.arrivals, row.counted_at)
    flow = known.departed(at, float(row.held_minutes))
    values = {
        "mean_minutes": flow.mean_life_minutes,
        "weight": flow.departures,
        "minutes": flow.minutes,
        "arrivals": list(flow.arrivals),
        "counted_at": at,
    }
    await session.execute(
        insert(LifeStatistic).values(pool=pool, **values).on_conflict_do_update(index_elements=["pool"], set_=values)
    )


_CAME = text(
    """
    INSERT INTO life_statistics AS known (pool, mean_minutes, weight, arrivals, counted_at)
    VALUES (:pool, 0, 0, array_fill(0.0::float, ARRAY[4]), :at)
    ON CONFLICT (pool) DO UPDATE SET
        arrivals[CAST(:rank AS int)] = known.arrivals[CAST(:rank AS int)] + 1,
        counted_at = coalesce(known.counted_at, :at)
    """
).bindparams(bindparam("at", type_=DateTime(timezone=True)))


async def came(session: AsyncSession, pool: str, tier: Tier, at: datetime) -> None:
    """Count a request that was let in. The very first of a pool opens the account, so that it has a time to come in."""
    await session.execute(_CAME, {"pool": pool, "rank": rank(tier), "at": at})


def _flow(
    mean: float | None, weight: float | None, minutes: float | None, arrivals: list[float] | None, at: datetime | None
) -> Flow:
    if mean is None or weight is None or minutes is None or arrivals is None:
        return Flow()
    enterprise, premium, basic, free = arrivals
    return Flow(
        departures=weight,
        mean_life_minutes=mean,
        minutes=minutes,
        arrivals=(enterprise, premium, basic, free),
        counted_at=at,
    )
