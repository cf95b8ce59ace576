"""API replicas of the live part on real Postgres, with agents and users to order."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx2
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text, update

from api import problems
from api.auth import Role, issue, open_verifier
from api.deps import Deps
from api.live.hub import open_live
from api.live.limits import SERVER_OPTIONS
from api.routes import artefacts, channel, commands, desktop, live
from core.db.engine import Db
from core.db.migrate import migrate
from core.db.models import Agent, Project, User
from core.domain.lifecycle import AgentState
from core.domain.orders import FailureReport, StartAnswer, StartRequest, StopOrder
from core.errors import RuntimePermanent, Unavailable
from core.ids import agent_workflow_id, new_agent_id
from core.runtime.base import Reach
from core.settings import Api, Auth, Settings
from core.tokens import hash_token, new_token
from tests.fakes.agent import FakeAgent

WAIT = 10.0


class RecordedLives:
    """Stands in for Temporal: keeps what was signalled, and can be away for a while."""

    def __init__(self) -> None:
        self.readied: list[tuple[str, int]] = []
        self.failures: list[FailureReport] = []
        self.away = 0

    async def ready(self, agent_id: str, attempt: int, workflow_id: str) -> None:
        if self.away > 0:
            self.away -= 1
            raise Unavailable("away", code="temporal_unavailable")
        self.readied.append((agent_id, attempt))

    async def failed(self, workflow_id: str, report: FailureReport) -> None:
        self.failures.append(report)

    async def start(self, request: StartRequest) -> StartAnswer:
        raise NotImplementedError

    async def stop(self, view: Any, order: StopOrder) -> None:
        raise NotImplementedError

    async def keep(self, view: Any) -> None:
        raise NotImplementedError

    async def restart(self, view: Any) -> None:
        raise NotImplementedError

    async def capacity_changed(self, pool: str) -> None:
        raise NotImplementedError


@dataclass
class StandInRuntime:
    """Only knows where agents answer."""

    reaches: dict[tuple[str, int], Reach] = field(default_factory=dict)

    async def reach(self, agent_id: str, attempt: int) -> Reach:
        if (agent_id, attempt) not in self.reaches:
            raise RuntimePermanent("not there")
        return self.reaches[agent_id, attempt]


@dataclass
class Berthed:
    """An agent's row with its token."""

    agent_id: str
    user_id: str
    token: str
    attempt: int = 1


@dataclass
class Stage:
    db: Db
    url: str
    settings: Settings
    lives: RecordedLives
    runtime: StandInRuntime
    replicas: list[str]
    apps: list[FastAPI]
    http: httpx2.AsyncClient

    def bearer(self, user_id: str, role: Role = Role.USER) -> dict[str, str]:
        token = issue(self.settings.auth, user_id, role, datetime.now(UTC), timedelta(minutes=10))
        return {"Authorization": f"Bearer {token}"}

    async def user(self, name: str) -> str:
        user_id = f"{name}-{new_agent_id()}"
        async with self.db.transaction() as session:
            session.add(User(user_id=user_id, tier="basic"))
        return user_id

    async def agent(self, user_id: str, state: AgentState = AgentState.RUNNING) -> Berthed:
        agent_id, token, at = new_agent_id(), new_token("agent").get_secret_value(), datetime.now(UTC)
        project_id = f"project-{agent_id}"
        async with self.db.transaction() as session:
            session.add(Project(project_id=project_id))
            await session.flush()
            session.add(
                Agent(
                    agent_id=agent_id,
                    user_id=user_id,
                    project_id=project_id,
                    workflow_id=agent_workflow_id(user_id, project_id),
                    template="default",
                    pool="default",
                    cluster="local",
                    runtime="process",
                    tier="basic",
                    state=state.value,
                    order_tier=1,
                    order_at=at,
                    created_at=at,
                    last_activity_at=at - timedelta(minutes=5),
                    token_hash=hash_token(token),
                )
            )
        return Berthed(agent_id=agent_id, user_id=user_id, token=token)

    async def change(self, agent: Berthed, **values: Any) -> None:
        async with self.db.transaction() as session:
            await session.execute(update(Agent).where(Agent.agent_id == agent.agent_id).values(**values))

    def fake(self, agent: Berthed, replica: int = 0, **options: Any) -> FakeAgent:
        return FakeAgent(self.replicas[replica], agent.agent_id, agent.token, attempt=agent.attempt, **options)

    async def execute(
        self,
        agent: Berthed,
        body: dict[str, Any],
        *,
        replica: int = 0,
        user_id: str | None = None,
        key: str | None = None,
    ) -> httpx2.Response:
        headers = self.bearer(user_id or agent.user_id) | ({"Idempotency-Key": key} if key else {})
        url = f"{self.replicas[replica]}/api/agents/{agent.agent_id}/execute"
        return await self.http.post(url, json=body, headers=headers)

    async def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        async with self.db.transaction() as session:
            return [dict(row._mapping) for row in await session.execute(text(query), values)]


async def eventually(condition: Callable[[], Any], seconds: float = WAIT) -> None:
    """Wait until `condition` (which may be a coroutine function) is true."""
    async with asyncio.timeout(seconds):
        while True:
            outcome = condition()
            if asyncio.iscoroutine(outcome):
                outcome = await outcome
            if outcome:
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serve(app: FastAPI) -> AsyncIterator[str]:
    """The app behind a real server on a free port."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2, **SERVER_OPTIONS)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await eventually(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def database(server: str) -> AsyncIterator[str]:
    name = f"live_{new_agent_id()[3:]}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f'CREATE DATABASE "{name}"')
        yield server.rsplit("/", 1)[0] + f"/{name}"
    finally:
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.close()


@asynccontextmanager
async def raise_stage(url: str, settings: Settings, count: int = 2, **options: Any) -> AsyncIterator[Stage]:
    """`count` replicas on one database."""
    async with contextlib.AsyncExitStack() as stack:
        db = await stack.enter_async_context(Db.open(url, application="test", pool_size=5))
        lives, runtime = RecordedLives(), StandInRuntime()
        replicas, apps = [], []
        for _ in range(count):
            own = await stack.enter_async_context(Db.open(url, application="api", pool_size=5))
            deps = Deps(
                settings=settings,
                db=own,
                lives=lives,
                verifier=open_verifier(settings.auth),
                runtimes={"process": runtime},  # type: ignore[dict-item]
            )
            app = FastAPI(max_body_size=1 << 20)
            problems.install(app)
            for routes in (channel, commands, artefacts, live, desktop):
                app.include_router(routes.router)
            app.state.deps = deps
            app.state.live = await stack.enter_async_context(open_live(deps, url, **options))
            await app.state.live.listener.wait_connected(WAIT)
            replicas.append(await stack.enter_async_context(serve(app)))
            apps.append(app)
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=30))
        yield Stage(db, url, settings, lives, runtime, replicas, apps, http)


@asynccontextmanager
async def fresh_stage() -> AsyncIterator[Stage]:
    settings = Settings(auth=Auth(secret=SecretStr("0123456789abcdef" * 4)), api=Api(public_url="http://berth.example"))
    async with database(os.environ["BERTH_TEST_POSTGRES"]) as url:
        async with Db.open(url, application="migrate", pool_size=1) as db:
            await migrate(db)
        async with raise_stage(url, settings) as stage:
            yield stage
