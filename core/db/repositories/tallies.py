"""Real waits against what was told: counted in the transaction of the grant, so that no count is lost or made twice."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ARRAY, BigInteger, Float, Text, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import WaitTally
from core.domain.waits import Wait, held


class Measure(StrEnum):
    WAITED = "waited_seconds"
    ERROR = "error_minutes"
    # Whether the real wait lay in the range that was told.
    RANGE = "range"


BOUNDS: dict[Measure, Sequence[float]] = {
    Measure.WAITED: (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400),
    Measure.ERROR: (0.5, 1, 2, 5, 10, 20, 30, 60, 120),
}
REST = "+Inf"


class Waited(BaseModel):
    """One that was granted a slot: how long it waited, and what it had been told if anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seconds: float
    told: Wait | None


class Tally(BaseModel):
    """`count` observations fell into this bucket alone, `total` is their sum."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pool: str
    measure: Measure
    bucket: str
    count: int
    total: float


_ADD = text(
    """
    INSERT INTO wait_tallies AS known (pool, measure, bucket, count, total)
    SELECT :pool, one.measure, one.bucket, one.count, one.total
    FROM unnest(:measures, :buckets, :counts, :totals) AS one (measure, bucket, count, total)
    ON CONFLICT (pool, measure, bucket) DO UPDATE
        SET count = known.count + excluded.count, total = known.total + excluded.total
    """
).bindparams(
    bindparam("measures", type_=ARRAY(Text)),
    bindparam("buckets", type_=ARRAY(Text)),
    bindparam("counts", type_=ARRAY(BigInteger)),
    bindparam("totals", type_=ARRAY(Float)),
)


async def count(session: AsyncSession, pool: str, granted: Iterable[Waited]) -> None:
    """Add some that were granted a slot just now. The caller holds the cluster's lock."""
    counts: Counter[tuple[str, str]] = Counter()
    totals: defaultdict[tuple[str, str], float] = defaultdict(float)
    for one in granted:
        for measure, bucket, value in _observed(one):
            counts[measure.value, bucket] += 1
            totals[measure.value, bucket] += value
    if not counts:
        return
    keys = sorted(counts)
    columns = {
        "measures": [measure for measure, _ in keys],
        "buckets": [bucket for _, bucket in keys],
        "counts": [counts[key] for key in keys],
        "totals": [totals[key] for key in keys],
    }
    await session.execute(_ADD, {"pool": pool, **columns})


def _observed(one: Waited) -> list[tuple[Measure, str, float]]:
    found = [(Measure.WAITED, _bucket(Measure.WAITED, one.seconds), one.seconds)]
    if one.told is not None:
        error = abs(one.seconds / 60 - one.told.minutes)
        found.append((Measure.ERROR, _bucket(Measure.ERROR, error), error))
        found.append((Measure.RANGE, held(one.told, one.seconds / 60).value, 0))
    return found


def _bucket(measure: Measure, value: float) -> str:
    bounds = BOUNDS[measure]
    place = bisect_left(bounds, value)
    return str(bounds[place]) if place < len(bounds) else REST


async def all_of(session: AsyncSession) -> list[Tally]:
    return [
        Tally(pool=row.pool, measure=Measure(row.measure), bucket=row.bucket, count=row.count, total=row.total)
        for row in (await session.scalars(select(WaitTally))).all()
    ]
