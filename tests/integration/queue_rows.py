"""The rows of the queue as the state machine finds them, and the passes that its pools' workflows would make."""

from sqlalchemy import text

from core.db.engine import Db
from core.db.repositories import clusters, overrides, projects, queue, users
from tests.integration.plain_queue import LIMITS, MAX_WAITING, PROJECTS, USERS, Plain

_EMPTY = text(
    "TRUNCATE users, projects, clusters, pool_overrides, life_statistics, wait_tallies, eviction_credits, events"
    " CASCADE"
)


async def begin(db: Db, plain: Plain) -> None:
    """Nothing but the world that `plain` begins with."""
    async with db.transaction() as session:
        await session.execute(_EMPTY)
        for user, tier in plain.tiers.items():
            await users.put(session, user, tier=tier.value)
        for project in PROJECTS:
            await projects.add(session, project, list(USERS))
        for pool, capacity in plain.capacity.items():
            await overrides.change(session, pool, capacity=capacity, paused=False)
        await clusters.record_look(session, "local", plain.now, total=plain.total, choked=False, detail={})


async def passes(db: Db, plain: Plain, pool: str) -> tuple[list[str], set[str]]:
    """Passes until nothing is given; who was granted, in their order, and who was not heard of."""
    given: list[str] = []
    while True:
        async with db.transaction() as session:
            line = await queue.positions(session, pool)
            done = await queue.grant(session, pool, plain.pools[pool], LIMITS, plain.now, MAX_WAITING)
            left = await queue.positions(session, pool)
        assert done.granted == len(line) - len(left)
        assert done.waiting == len(left)
        given += sorted(set(line) - set(left), key=lambda agent_id: line[agent_id])
        if not done.granted:
            return given, {winner.agent_id for winner in done.unseen}
