"""Users and agents by the hundred over HTTP, from one process, against a local stack."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import httpx2
import psutil

from api.auth import Role, issue
from core.settings import Auth
from tests.fixtures.stack import LocalStack, eventually

_LOOK_SECONDS = 0.15


@dataclass
class Crowd:
    """`count` users u0, u1, ... with a project each. One poller as an admin sees all their agents move."""

    stack: LocalStack
    http: httpx2.AsyncClient
    auth: Auth
    count: int
    pending: int = 0
    template: str | None = None

    def bearer(self, user_id: str, role: Role = Role.USER) -> dict[str, str]:
        token = issue(self.auth, user_id, role, datetime.now(UTC), timedelta(hours=1))
        return {"Authorization": f"Bearer {token}"}

    async def start(self, number: int, template: str | None = None) -> str:
        """Ask until it is decided, with one key, as a client would."""
        body = {"template": template or self.template}
        path, key = f"/api/projects/p{number}/start-agent", {"Idempotency-Key": f"bench-{uuid4().hex}"}
        for _ in range(20):
            said = (await self._ask("POST", path, number, key, body)).json()
            if said["status"] != "pending":
                return str(said["agentId"] if "agentId" in said else said["agent"]["agentId"])
            self.pending += 1
        raise RuntimeError("no worker decided")

    async def stop(self, number: int, agent_id: str) -> None:
        await self._ask("POST", f"/api/agents/{agent_id}/stop", number)

    async def reaches(self, number: int, agent_id: str, state: str) -> None:
        """Return as soon as a read says so, asking every 20 ms."""

        async def there() -> bool:
            return bool((await self._ask("GET", f"/api/agents/{agent_id}", number)).json()["state"] == state)

        await eventually(there, f"{agent_id} to be {state}", every=0.02)

    async def _ask(
        self,
        method: str,
        path: str,
        number: int,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: dict[str, Any] | None = None,
    ) -> httpx2.Response:
        own = {**self.bearer(f"u{number}"), **headers}
        answer = await self.http.request(method, path, headers=own, json=body)
        answer.raise_for_status()
        return answer

    async def states(self) -> dict[str, str]:
        """State of every agent that ever was, by id."""
        found: dict[str, str] = {}
        cursor: str | None = None
        headers = self.bearer("admin", Role.ADMIN)
        while True:
            params: dict[str, Any] = {"limit": 200} | ({"cursor": cursor} if cursor else {})
            page = (await self.http.get("/api/admin/agents", headers=headers, params=params)).json()
            found |= {item["agentId"]: item["state"] for item in page["items"]}
            cursor = page["nextCursor"]
            if cursor is None or len(found) >= 2 * self.count:
                return found


class Board:
    """Tells those who wait when their agent reached a state, from one list asked for every 150 ms."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._states: dict[str, str] = {}
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            self._states = await self._crowd.states()
            async with self._news:
                self._news.notify_all()
            await asyncio.sleep(_LOOK_SECONDS)

    async def until(self, agent_id: str, state: str) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self._states.get(agent_id) == state)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def crowd_of(stack: LocalStack, count: int, tier_of: Callable[[int], str] = lambda _: "free") -> Crowd:
    """Make the users and their projects through the admin's endpoints."""
    await stack.berth("token", "admin", "--admin")
    http = httpx2.AsyncClient(base_url=stack.url, timeout=60, limits=httpx2.Limits(max_connections=100))
    crowd = Crowd(stack, http, stack.auth, count)
    headers = crowd.bearer("admin", Role.ADMIN)
    for number in range(count):
        user = {"tier": tier_of(number)}
        (await http.put(f"/api/admin/users/u{number}", headers=headers, json=user)).raise_for_status()
        members = {"members": [f"u{number}"]}
        (await http.put(f"/api/admin/projects/p{number}", headers=headers, json=members)).raise_for_status()
    return crowd


async def lifecycles(crowd: Crowd, numbers: range, at_once: int) -> float:
    """Whole lives a second: asked for, usable, stopped, gone."""
    board, gate = Board(crowd), asyncio.Semaphore(at_once)

    async def live(number: int) -> None:
        async with gate:
            agent_id = await crowd.start(number)
            await board.until(agent_id, "running")
            await crowd.stop(number, agent_id)
            await board.until(agent_id, "terminated")

    with stopwatch() as took:
        await asyncio.gather(*(live(number) for number in numbers))
    await board.close()
    return len(numbers) / took[0]


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """A list that holds the seconds the block took, once it is over."""
    took: list[float] = []
    begin = time.perf_counter()
    yield took
    took.append(time.perf_counter() - begin)


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its children."""
    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])
