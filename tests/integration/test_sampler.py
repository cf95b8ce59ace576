"""What a look at a cluster is worth by the time it is stored."""

from datetime import UTC, datetime, timedelta

from core.db.engine import Db
from core.db.repositories import clusters
from core.domain.room import Snapshot
from core.domain.templates import Pool, Template
from core.runtime.base import ClusterCapacity
from core.settings import Auth, Settings
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
