"""A runtime of this machine's host supervisor, as the worker and the API see it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
from pydantic import TypeAdapter

from core.domain.sizes import Size
from core.domain.templates import Template
from core.errors import RuntimeRetryable
from core.runtime.base import (
    AgentRuntime,
    AgentSpec,
    ClusterCapacity,
    Created,
    Observation,
    Owner,
    Pruned,
    Reach,
    Resized,
    Usage,
)
from core.runtime.host.address import socket_path
from core.runtime.host.wire import (
    KEEP_ALIVE_SECONDS,
    Checked,
    Elsewhere,
    Profile,
    Prune,
    Resize,
    dump_spec,
    dump_wanted,
    error_of,
)
from core.settings import Settings

_CALL_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_PRUNE_SECONDS = 120.0
# Beyond the grace: the host's own bound for killing and cleaning up.
_DELETE_SECONDS = 30.0
_MAX_CONNECTIONS = 500
_LIST = TypeAdapter(list[Observation])


def open_runtime(name: str, settings: Settings) -> AgentRuntime:
    """The runtime `name` of the host supervisor; connects when it is first used, and again for every call."""
    return HostRuntime(name, settings.data_dir, settings.host.url)


class HostRuntime:
    """Guarantees of `AgentRuntime`. While no host answers, every method raises `RuntimeRetryable`."""

    def __init__(self, name: str, data_dir: Path, url: str | None = None) -> None:
        self.name = name
        self._data_dir = data_dir
        self._url = url
        self._place: Path | None = None
        self._client: httpx2.AsyncClient | None = None

    async def create(self, spec: AgentSpec) -> Created:
        answer = await self._call("PUT", self._agent(spec.agent_id, spec.attempt), content=dump_spec(spec))
        return Created.model_validate_json(answer)

    async def observe(self, agent_id: str, attempt: int) -> Observation:
        return Observation.model_validate_json(await self._call("GET", self._agent(agent_id, attempt)))

    async def delete(self, agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        answer = await self._call(
            "DELETE",
            self._agent(agent_id, attempt),
            params={"grace": str(grace_seconds)},
            timeout=grace_seconds + _DELETE_SECONDS,
        )
        return Usage.model_validate_json(answer)

    async def check(self, template: Template) -> None:
        await self._call("POST", "check", content=Checked(template=template).model_dump_json().encode())

    async def resize(self, agent_id: str, attempt: int, size: Size) -> Resized:
        body = Resize(size=size).model_dump_json().encode()
        path = f"{self._agent(agent_id, attempt)}/resize"
        return Resized.model_validate_json(await self._call("POST", path, content=body))

    async def elsewhere(self, agent_id: str, attempt: int, template: Template) -> str:
        body = Elsewhere(template=template).model_dump_json().encode()
        path = f"{self._agent(agent_id, attempt)}/elsewhere"
        return Elsewhere.model_validate_json(await self._call("POST", path, content=body)).node

    async def list(self) -> list[Observation]:
        return _LIST.validate_json(await self._call("GET", "agents"))

    async def capacity(self, wanted: Mapping[str, Template] | None = None) -> ClusterCapacity:
        # As a query, which an older host leaves aside.
        query = {"wanted": dump_wanted(wanted)} if wanted else {}
        return ClusterCapacity.model_validate_json(await self._call("GET", "capacity", params=query))

    async def watch(self) -> AsyncIterator[Observation]:
        async for line in self._stream("watch", KEEP_ALIVE_SECONDS * 3):
            if line.strip():
                yield Observation.model_validate_json(line)
        raise RuntimeRetryable("the host supervisor ended the watch; list and watch again")

    async def reach(self, agent_id: str, attempt: int) -> Reach:
        return Reach.model_validate_json(await self._call("GET", f"{self._agent(agent_id, attempt)}/reach"))

    async def logs(self, agent_id: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        # A follower waits as long as the agent is silent; the stream ends when the agent does.
        path = f"agents/{quote(agent_id, safe='')}/logs?follow={int(follow)}"
        async for chunk in self._stream(path, None if follow else _CALL_SECONDS, lines=False):
            yield chunk

    async def delete_profile(self, user_id: str, project_id: str) -> None:
        body = Profile(user_id=user_id, project_id=project_id).model_dump_json().encode()
        await self._call("POST", "profiles/delete", content=body)

    async def prune(self, unused_for: timedelta, keep: Sequence[Owner]) -> Pruned:
        body = Prune(unused_seconds=unused_for.total_seconds(), keep=tuple(keep)).model_dump_json().encode()
        return Pruned.model_validate_json(await self._call("POST", "prune", content=body, timeout=_PRUNE_SECONDS))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _agent(self, agent_id: str, attempt: int) -> str:
        return f"agents/{quote(agent_id, safe='')}/{attempt}"

    async def _call(self, method: str, path: str, *, timeout: float = _CALL_SECONDS, **options: Any) -> bytes:
        client = await self._open()
        limits = httpx2.Timeout(timeout, connect=_CONNECT_SECONDS)
        try:
            try:
                answer = await client.request(method, path, timeout=limits, **options)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                # A kept connection of a host that was restarted. Every call may be made twice, so make it again.
                answer = await client.request(method, path, timeout=limits, **options)
        except (httpx2.TransportError, httpx2.TimeoutException) as error:
            raise self._unreachable(error) from error
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer.content)
        return answer.content

    async def _stream(self, path: str, silence: float | None, *, lines: bool = True) -> AsyncIterator[bytes]:
        client = await self._open()
        timeout = httpx2.Timeout(silence, connect=_CONNECT_SECONDS, pool=_CALL_SECONDS)
        try:
            async with client.stream("GET", path, timeout=timeout) as answer:
                if answer.status_code >= 400:
                    raise error_of(answer.status_code, await answer.aread())
                if lines:
                    async for line in answer.aiter_lines():
                        yield line.encode()
                else:
                    async for chunk in answer.aiter_raw():
                        yield chunk
        except (httpx2.TransportError, httpx2.TimeoutException) as error:
            raise self._unreachable(error) from error

    async def _open(self) -> httpx2.AsyncClient:
        place = socket_path(self._data_dir)
        if self._client is not None and place == self._place:
            return self._client
        await self.close()
        self._place = place
        limits = httpx2.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=50)
        if self._url is None:
            transport = httpx2.AsyncHTTPTransport(uds=str(place), limits=limits, trust_env=False)
        else:
            transport = httpx2.AsyncHTTPTransport(limits=limits, trust_env=False)
        base = f"{(self._url or 'http://host').rstrip('/')}/{quote(self.name, safe='')}/"
        self._client = httpx2.AsyncClient(base_url=base, transport=transport, trust_env=False)
        return self._client

    def _unreachable(self, error: Exception) -> RuntimeRetryable:
        where = self._url or str(self._place)
        match error:
            case httpx2.ConnectError() | httpx2.ConnectTimeout():
                return RuntimeRetryable(f"no host supervisor answers at {where}; is `berth host` running?")
            case httpx2.TimeoutException():
                return RuntimeRetryable(f"the host supervisor at {where} did not answer in time")
            case _:
                return RuntimeRetryable(f"the connection to the host supervisor at {where} broke")
