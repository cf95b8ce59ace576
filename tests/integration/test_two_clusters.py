"""One user's agents in two clusters: each has a lock of its own, the user's quota is one."""

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from core.db.engine import Db
from core.db.repositories import admission, clusters, overrides, projects, queue, users
from core.domain.admission import Rules
from core.domain.orders import StartRequest
from core.domain.templates import Pool
from core.domain.tiers import Tier, TierLimits
from core.ids import agent_workflow_id, new_agent_id

LIMITS = TierLimits(free=1, basic=2)
NOW = datetime.now(UTC)
HERE, THERE = Pool(runtime="memory", capacity=5), Pool(runtime="memory", cluster="far", capacity=5)


async def wait_in(db: Db, pool: Pool, name: str, project: str, user: str = "ann", tier: Tier = Tier.BASIC) -> None:
    async with db.transaction() as session:
        await overrides.change(session, name, capacity=None, paused=True)
        await clusters.record_look(session, pool.cluster, NOW, total=10, choked=False, detail={})
        await users.put(session, user, tier=tier.value)
        await projects.add(session, project, [user])
    ask = StartRequest(agent_id=new_agent_id(), user_id=user, project_id=project, pool=name)
    rules = Rules(limits=LIMITS, max_waiting=10)
    async with db.transaction() as session:
        await admission.register(
            session, ask, agent_workflow_id(user, project), None, pool, rules, timedelta(seconds=90), NOW
        )
        await overrides.change(session, name, capacity=None, paused=False)


async def grant(db: Db, pool: Pool, name: str) -> int:
    async with db.transaction() as session:
        return (await queue.grant(session, name, pool, LIMITS, NOW, 10)).granted


async def test_clusters_that_grant_at_the_same_moment_give_one_user_no_more_than_the_quota(db: Db) -> None:
    for pool, name, project in ((HERE, "default", "a"), (THERE, "far", "b")):
        await wait_in(db, pool, name, project)
    # Both came in a better tier than the user has now.
    async with db.transaction() as session:
        await users.put(session, "ann", tier=Tier.FREE.value)
    async with db.transaction() as session:
        here = (await queue.grant(session, "default", HERE, LIMITS, NOW, 10)).granted
        there = asyncio.create_task(grant(db, THERE, "far"))
        await _blocked(db)
    assert (here, await there) == (1, 0)
    async with db.transaction() as session:
        held = await session.scalar(text("SELECT count(*) FROM agents WHERE state = 'starting'"))
    assert held == 1


async def _blocked(db: Db) -> None:
    """Until another transaction waits for what this one has."""
    async with asyncio.timeout(10):
        while True:
            async with db.transaction() as session:
                found = await session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            if found:
                return
            await asyncio.sleep(0.01)


async def test_pool_whose_first_goes_first_is_told_first_that_a_slot_of_the_cluster_came_free(db: Db) -> None:
    waiting = (
        ("a", "ann", Tier.FREE),
        ("b", "eve", Tier.ENTERPRISE),
        ("b", "dan", Tier.FREE),
        ("c", "bob", Tier.BASIC),
    )
    for pool, user, tier in waiting:
        await wait_in(db, HERE, pool, "shop", user, tier)
    await wait_in(db, THERE, "far", "other", "ann", Tier.BASIC)
    async with db.transaction() as session:
        assert await queue.somebody_waits(session, "local") == ["b", "c", "a"]
        assert await queue.somebody_waits(session, "local", "ann") == ["b", "c", "far", "a"]
        assert await queue.somebody_waits(session, "far") == ["far"]
