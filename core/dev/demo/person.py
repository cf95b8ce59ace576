"""One user of the demo, who talks to Berth over HTTP as any client would."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from core.dev.demo.steps import Unexpected

_SECONDS = 30.0
_LOOK_SECONDS = 0.1
_PENDING_SECONDS = 30.0
_OVER = frozenset({"terminated", "cancelled", "failed"})


class Person:
    """`user` with their `project` and at most one agent; every refusal is `Unexpected`."""

    def __init__(self, user: str, project: str, token: str, http: httpx2.AsyncClient) -> None:
        self.user = user
        self.project = project
        self.token = token
        self.agent_id = ""
        self._http = http

    async def start(self) -> dict[str, Any]:
        """start-agent, asked again with its key while nobody decides."""
        key = f"demo-{time.time_ns()}"
        deadline = time.monotonic() + _PENDING_SECONDS
        while True:
            answer = await self._ask("POST", f"/api/projects/{quote(self.project, safe='')}/start-agent", key=key)
            if answer["status"] != "pending":
                break
            if time.monotonic() > deadline:
                raise Unexpected("no worker decides about the request")
            await asyncio.sleep(1)
        self.agent_id = answer.get("agentId") or answer["agent"]["agentId"]
        return answer

    async def agent(self) -> dict[str, Any]:
        return await self._ask("GET", f"/api/agents/{self.agent_id}")

    async def until(self, state: str, looked: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
        """The agent once it is in `state`; `looked` sees it each time. Raises `Unexpected` when it ended first."""
        while True:
            agent = await self.agent()
            looked(agent)
            if agent["state"] == state:
                return agent
            if agent["state"] in _OVER:
                raise Unexpected(f"the agent is {agent['state']}: {agent['reason'] or 'no reason given'}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def execute(self, command: str, seconds: float = 60, **parameters: Any) -> dict[str, Any]:
        """The result of one command."""
        body = {"command": command, "parameters": parameters, "timeoutSeconds": seconds}
        answer = await self._ask("POST", f"/api/agents/{self.agent_id}/execute", body, seconds=seconds + 10)
        result: dict[str, Any] = answer["result"]
        return result

    async def stop(self, grace_seconds: float) -> dict[str, Any]:
        return await self._ask("POST", f"/api/agents/{self.agent_id}/stop", {"graceSeconds": grace_seconds})

    async def fetch(self, artefact: dict[str, Any], path: Path, magic: bytes) -> int:
        """Save what a command made. Returns its bytes; raises `Unexpected` when it is not what it says."""
        answer = await self._http.get(artefact["url"], headers=self._headers(), timeout=_SECONDS)
        if answer.status_code != 200:
            raise Unexpected(f"{artefact['url']} answered {answer.status_code}")
        if not answer.content.startswith(magic) or len(answer.content) != artefact["bytes"]:
            raise Unexpected(f"{artefact['url']} is no {artefact['contentType']} of {artefact['bytes']} bytes")
        await asyncio.to_thread(path.write_bytes, answer.content)
        return len(answer.content)

    async def _ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, seconds: float = _SECONDS
    ) -> dict[str, Any]:
        headers = self._headers() | ({"Idempotency-Key": key} if key else {})
        answer = await self._http.request(method, path, json=body, headers=headers, timeout=seconds)
        found: dict[str, Any] = answer.json()
        if answer.status_code >= 400:
            raise Unexpected(f"{path} answered {answer.status_code}: {found.get('detail', 'no reason given')}")
        return found

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}
