"""What a look at a cluster is worth by the time it is stored."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from core.db.engine import Db
from core.db.repositories import clusters
from core.domain.room import Snapshot
from core.domain.templates import Pool, Template
from core.domain.thresholds import Look, Measure, Over, Thresholds
from core.runtime.base import ClusterCapacity
from core.settings import Auth, Settings
from temporal import sampler as sampling
from temporal.sampler import Sampler
from tests.fakes.lives import SimulatedLives


class _Repeating:
    """A runtime that tells a look of before, as one over a very large cluster does."""

    def __init__(self) -> None:
        self.looked_at = datetime.now(UTC)

    async def capacity(self, wanted: object = None) -> ClusterCapacity:
        return ClusterCapacity(fits=5, agents=0, looked_at=self.looked_at)

    async def check(self, template: Template) -> None:
        pass


async def test_look_that_is_told_again_and_again_grows_old_all_the_same(db: Db) -> None:
    runtime, pool = _Repeating(), Pool(runtime="repeating", cluster="far")
    settings = Settings(auth=Auth()).model_copy(update={"pools": {"default": pool}})
    sampler = Sampler(settings, {"repeating": runtime}, db, SimulatedLives(db, settings))  # type: ignore[dict-item, arg-type]

    async def snapshot() -> Snapshot:
        await sampler.look()
        async with db.transaction() as session:
            return (await clusters.room(session, "default", pool, datetime.now(UTC), 10)).snapshot

    assert await snapshot() is Snapshot.FRESH
    runtime.looked_at -= clusters.STALE_AFTER + timedelta(seconds=1)
    assert await snapshot() is Snapshot.STALE


class _Busy:
    """A runtime whose machine has much to do, or little."""

    cpu_percent = 0.0

    async def capacity(self, wanted: object = None) -> ClusterCapacity:
        return ClusterCapacity(fits=5, agents=0, cpu_percent=self.cpu_percent)

    async def check(self, template: Template) -> None:
        pass


async def test_cpu_shuts_the_door_by_its_mean_over_as_long_as_the_settings_say_and_not_before(
    db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, busy, pool = 1000.0, _Busy(), Pool(runtime="busy", cluster="far")
    monkeypatch.setattr(sampling, "time", SimpleNamespace(monotonic=lambda: now))
    thresholds = Thresholds(cpu_percent=80, cpu_window_seconds=60)
    settings = Settings(auth=Auth(), thresholds=thresholds).model_copy(update={"pools": {"default": pool}})
    sampler = Sampler(settings, {"busy": busy}, db, SimulatedLives(db, settings))  # type: ignore[dict-item, arg-type]

    async def seen(after: float, cpu_percent: float) -> Look:
        nonlocal now
        now, busy.cpu_percent = now + after, cpu_percent
        await sampler.look()
        async with db.transaction() as session:
            found = await clusters.last_look(session, "far")
        assert found is not None
        return found

    assert [(await seen(after, 100)).choked for after in (0, 30, 29)] == [False] * 3
    shut = await seen(1, 60)
    assert shut.over == (Over(measure=Measure.CPU, value=90, limit=80),)
