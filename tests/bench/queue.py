"""The queue when it is long: what ten thousand that wait cost those who are next, and those who ask."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import text

from core.db.engine import Db
from core.db.migrate import migrate
from core.db.repositories import clusters, queue, waiting
from core.domain.templates import Pool
from core.domain.tiers import TierLimits
from core.settings import Auth, DefaultPool, Queue, Settings
from tests.bench.figures import Figures
from tests.bench.load import percentile, stopwatch
from tests.fakes.lives import SimulatedLives
from tests.fixtures.api import SECRET, replica
from tests.fixtures.database import scratch_database, server_in

SHORT, LONG = 100, 10_000
_WATCHING = 1000
_FILL = (
    "INSERT INTO users (user_id, tier) SELECT 'u' || n, (ARRAY['free','basic','premium','enterprise'])[n % 4 + 1]"
    " FROM generate_series(1, :count) AS n",
    "INSERT INTO projects (project_id) VALUES ('shop')",
    "INSERT INTO agents (agent_id, user_id, project_id, workflow_id, template, pool, cluster, runtime, tier, state,"
    " order_tier, order_at, order_since, created_at, last_activity_at)"
    " SELECT 'ag-' || n, 'u' || n, 'shop', 'agent/' || n, 'default', 'default', 'local', 'memory', 'free', 'queued',"
    " 4 - n % 4, at, at, at, at FROM (SELECT n, now() - n * interval '1 second' AS at"
    " FROM generate_series(1, :count) AS n) AS one",
    "INSERT INTO memberships (user_id, project_id) SELECT user_id, 'shop' FROM users",
)


class QueueBench:
    def __init__(self, figures: Figures, quick: bool) -> None:
        self.note = figures.note
        self._turns = 40 if quick else 150

    async def run(self, scratch: Path) -> None:
        folder = scratch / "postgres"
        folder.mkdir()
        if os.geteuid() == 0:
            # The server runs as an account of its own and has to get there.
            await asyncio.to_thread(scratch.chmod, 0o711)
        async with server_in(folder) as server:
            rates = {count: await self._grants(server, count) for count in (SHORT, LONG, SHORT, LONG)}
            ratio = rates[LONG] / rates[SHORT]
            self.note(f"grants with {SHORT} waiting", f"{rates[SHORT]:.0f}/s")
            self.note(f"grants with {LONG} waiting", f"{rates[LONG]:.0f}/s", ">= 40/s", rates[LONG] >= 40)
            self.note("grants, long queue against short", f"{ratio:.2f} x", ">= 0.9 x", ratio >= 0.9)
            await self._questions(server)
        shutil.rmtree(folder, ignore_errors=True)

    async def _grants(self, server: str, count: int) -> float:
        """Slots come free one by one and are given at once, a pass each, while the line stays as long as it is."""
        async with _waiting(server, count + self._turns) as db:
            pool, limits = Pool(runtime="memory"), TierLimits()
            with stopwatch() as took:
                for turn in range(self._turns):
                    now = datetime.now(UTC)
                    async with db.transaction() as session:
                        given = pool.model_copy(update={"capacity": turn + 1})
                        done = await queue.grant(session, "default", given, limits, now, 2 * LONG)
                    if done.granted != 1:
                        raise RuntimeError(f"{done.granted} granted instead of one")
            return self._turns / took[0]

    async def _questions(self, server: str) -> None:
        settings = Settings(
            auth=Auth(secret=SecretStr(SECRET)),
            pool=DefaultPool(runtime="memory", capacity=0),
            queue=Queue(max=2 * LONG),
        )
        async with _waiting(server, LONG) as db:
            async with replica(db, settings, SimulatedLives(db, settings)) as api:
                await api.member("asks", ["shop"])
                seconds = []
                for _ in range(self._turns):
                    with stopwatch() as took:
                        answer = await api.ask("POST", "/api/projects/shop/explain-start", "asks")
                    if answer.json()["place"]["position"] != LONG + 1:
                        raise RuntimeError(answer.text)
                    seconds.append(took[0])
            middle = percentile(seconds, 50) * 1000
            self.note(f"explain with {LONG} waiting, p50", f"{middle:.0f} ms", "<= 30 ms", middle <= 30)
            watching = {f"u{number}" for number in range(1, _WATCHING + 1)}
            with stopwatch() as took:
                async with db.transaction() as session:
                    places = await waiting.places(session, "default", watching, settings.rules())
            if len(places) != _WATCHING:
                raise RuntimeError(f"{len(places)} places")
            self.note(f"places of {_WATCHING} of them", f"{took[0] * 1000:.0f} ms")


@asynccontextmanager
async def _waiting(server: str, count: int) -> AsyncIterator[Db]:
    """A database in which so many wait and the cluster has room for all."""
    async with scratch_database(server) as url, Db.open(url, application="bench", pool_size=5) as db:
        await migrate(db)
        async with db.transaction() as session:
            for statement in _FILL:
                await session.execute(text(statement), {"count": count} if ":count" in statement else {})
            await clusters.record_look(session, "local", datetime.now(UTC), total=2 * LONG, choked=False, detail={})
        # What a server does by itself, and this one is kept from: without it every count reads the whole table.
        async with db.engine.connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.execute(text("VACUUM ANALYZE"))
        yield db
