"""The reaper's look, when all is well: what it costs to see that two thousand agents are somebody's."""

import asyncio
import os
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from activities.lives import LifeActivities
from activities.reaping import ReapingActivities
from core.db.engine import Db
from core.db.migrate import migrate
from core.domain.orders import StartRequest
from core.runtime.base import AgentSpec
from core.runtime.memory import MemoryRuntime
from core.settings import Auth, DefaultPool, Kubernetes, Memory, Settings
from k8s.runtime import KubernetesRuntime
from temporal.lives import Lives
from tests.bench.figures import Figures
from tests.fixtures.database import scratch_database, server_in
from tests.fixtures.kube import access
from tests.fixtures.stage import temporal_server, until
from workflows.agent import AgentWorkflow
from workflows.life import AgentInput
from workflows.options import AGENT_ID, AGENT_STATE, CONTROL_QUEUE

AGENTS = 2000
_LOOKS = 7
_AT_ONCE = 50
_FILL = (
    "INSERT INTO users (user_id) SELECT 'u' || n FROM generate_series(1, :count) AS n",
    "INSERT INTO projects (project_id) VALUES ('shop')",
    "INSERT INTO memberships (user_id, project_id) SELECT user_id, 'shop' FROM users",
    "INSERT INTO agents (agent_id, user_id, project_id, workflow_id, template, pool, cluster, runtime, tier, state,"
    " order_tier, order_at, order_since, created_at, admitted_at, started_at, ready_at, last_activity_at)"
    " SELECT 'ag-' || n, 'u' || n, 'shop', 'agent/u' || n || '/shop', 'default', 'default', 'local', 'memory', 'free',"
    " 'running', 4, at, at, at, at, at, at, at FROM (SELECT n, now() - interval '1 hour' AS at"
    " FROM generate_series(1, :count) AS n) AS one",
)


class ReaperBench:
    def __init__(self, figures: Figures, quick: bool) -> None:
        self.note = figures.note
        self._agents = AGENTS // 3 if quick else AGENTS

    async def run(self, scratch: Path) -> None:
        folder = scratch / "postgres"
        folder.mkdir()
        if os.geteuid() == 0:
            # The server runs as an account of its own and has to get there.
            await asyncio.to_thread(scratch.chmod, 0o711)
        async with server_in(folder) as server, temporal_server() as env:
            await self._look(server, env.client)
        shutil.rmtree(folder, ignore_errors=True)
        await self._cluster(scratch)

    async def _look(self, server: str, client: Client) -> None:
        settings = Settings(auth=Auth(), pool=DefaultPool(runtime="memory"), memory=Memory(start_seconds=0))
        lives, runtime = Lives(client), MemoryRuntime(settings.memory)
        async with scratch_database(server) as url, Db.open(url, application="bench", pool_size=5) as db:
            await migrate(db)
            async with db.transaction() as session:
                for statement in _FILL:
                    await session.execute(text(statement), {"count": self._agents} if ":count" in statement else {})
            await self._fill(client, lives, runtime, settings)
            acts = LifeActivities(db, settings, lives)
            reaper = ReapingActivities(db, settings, lives, {"memory": runtime}, acts)

            async def look() -> None:
                found = await reaper.look()
                if found.rows or found.objects or found.workflows:
                    raise RuntimeError(f"{found} of healthy agents")

            took, used = await _measured(look)
        share = 100 * used / settings.timings.reap_seconds
        what = f"reaper's look over {self._agents} agents"
        self.note(what, f"{took:.2f} s", "< 2 s", took < 2)
        self.note(f"{what}, of a core", f"{share:.1f} %", "< 5 %", share < 5)

    async def _fill(self, client: Client, lives: Lives, runtime: MemoryRuntime, settings: Settings) -> None:
        """A run and an object for each. Nobody works on the runs, so they stay as they were begun."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def make(number: int) -> None:
            name, user = f"ag-{number}", f"u{number}"
            marks = [SearchAttributePair(AGENT_ID, name), SearchAttributePair(AGENT_STATE, "running")]
            async with gate:
                await client.start_workflow(
                    AgentWorkflow.run,
                    AgentInput(request=StartRequest(agent_id=name, user_id=user, project_id="shop")),
                    id=f"agent/{user}/shop",
                    task_queue=CONTROL_QUEUE,
                    search_attributes=TypedSearchAttributes(marks),
                )
                await runtime.create(_spec(settings, name, user))

        await asyncio.gather(*(make(number) for number in range(1, self._agents + 1)))

        async def listed() -> bool:
            return len(await lives.owners()) == self._agents

        await until(listed, "all runs to be listed", 60)

    async def _cluster(self, scratch: Path) -> None:
        """What a cluster adds: its part of the look is to count the agents' objects."""
        async with _herd(self._agents) as url:
            cluster = Kubernetes(kubeconfig=access(scratch, url))
            runtime = KubernetesRuntime(Settings(auth=Auth(), kubernetes=cluster))
            try:
                for name, ask in (("counted", runtime.present), ("listed", runtime.list)):
                    took, used = await _measured(ask)
                    self.note(f"kubernetes: {self._agents} agents {name}", f"{took:.2f} s, {used:.2f} s of a core")
            finally:
                await runtime.close()


def _spec(settings: Settings, agent_id: str, user_id: str) -> AgentSpec:
    return AgentSpec(
        agent_id=agent_id,
        attempt=1,
        user_id=user_id,
        project_id="shop",
        pool="default",
        template=settings.template("default"),
        backend_url="http://127.0.0.1",
        token=SecretStr("t"),
    )


async def _measured(work: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Seconds by the clock and of this process's CPU, the middle of some after a first one."""
    await work()
    took, used = [], []
    for _ in range(_LOOKS):
        began, busy = time.perf_counter(), time.process_time()
        await work()
        took.append(time.perf_counter() - began)
        used.append(time.process_time() - busy)
    return statistics.median(took), statistics.median(used)


@asynccontextmanager
async def _herd(count: int) -> AsyncIterator[str]:
    """A small API server with so many agents, as a process of its own: what it costs is not ours."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.reaper", str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def _serve(count: int) -> None:
    from core.domain.timings import Timings
    from k8s import objects
    from tests.fakes.api_server import api_server

    settings, made = Settings(auth=Auth()), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = f"/api/v1/namespaces/{settings.kubernetes.namespace}"
    async with api_server() as server:
        for number in range(count):
            spec = _spec(settings, f"ag-{number}", f"u{number}")
            secret = objects.secret(spec, "berth")
            secret["metadata"]["creationTimestamp"] = made
            secret = server.put(f"{path}/secrets", secret)
            pod = objects.pod(spec, "berth", secret, Timings())
            pod["metadata"]["creationTimestamp"] = made
            server.put(f"{path}/pods", pod | {"status": {"phase": "Running"}})
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
