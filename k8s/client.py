"""A connection to one API server: credentials, time-outs, and every error turned into one of ours.

Objects go and come as JSON. The generated models cost milliseconds each, and a list may hold thousands.
"""

import asyncio
import json
import math
import os
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import yaml
from aiohttp import (
    ClientConnectorCertificateError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    ClientWebSocketResponse,
    ClientWSTimeout,
    ServerDisconnectedError,
)
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from core.errors import RuntimePermanent, RuntimeRetryable
from core.settings import Kubernetes
from k8s.faults import Refusal, fault_of

log = structlog.get_logger()
Json = dict[str, Any]
Query = Mapping[str, str | int | bool]

JSON = "application/json"
# A patch that names what changes: of a container its limits, say, and nothing of the others.
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
# Metadata alone: a list of Secrets must not carry their contents.
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_CONNECT_SECONDS = 5.0
# Watches and logs hold a connection each.
_MAX_CONNECTIONS = 2_000
_MAX_LINE = 4 << 20
_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class Cluster:
    """Connects when it is first used. Raises `RuntimeRetryable` while the cluster cannot be reached or asked."""

    def __init__(self, settings: Kubernetes) -> None:
        self._settings = settings
        self._client: ApiClient | None = None
        self._opening = asyncio.Lock()
        self._unanswered_at = -math.inf

    async def call(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Query | None = None,
        body: Json | None = None,
        accept: str = JSON,
        content: str = JSON,
        seconds: float | None = None,
    ) -> Json:
        """One request and its JSON answer. Errors are those of `faults.fault_of`, which `doing` gives words to.

        Made once more when a kept connection turns out to be dead, so it must be one that may come twice.
        """
        timeout = ClientTimeout(total=seconds or self._settings.request_seconds, sock_connect=_CONNECT_SECONDS)
        for last in (False, True):
            try:
                async with self._request(method, path, query, body, accept, timeout, content) as answer:
                    if answer.status == 401 and not last:
                        # A token or certificate that was renewed on disk since we read it.
                        await self._forget()
                        continue
                    found = await answer.read()
                    if answer.status >= 400:
                        raise fault_of(Refusal.of(answer.status, found), doing)
                    return _parsed(found, doing)
            except (ServerDisconnectedError, ConnectionResetError) as error:
                if last:
                    raise self._away(error) from error
            except (ClientError, OSError, TimeoutError) as error:
                raise self._away(error) from error
        raise AssertionError("the second try returns or raises")

    @asynccontextmanager
    async def stream(
        self, path: str, *, doing: str, query: Query | None = None, silence: float | None
    ) -> AsyncIterator[ClientResponse]:
        """An answer that goes on. `silence` is how long nothing may come, in seconds; None for as long as it likes."""
        timeout = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence)
        try:
            async with self._request("GET", path, query, None, "*/*", timeout) as answer:
                if answer.status >= 400:
                    raise fault_of(Refusal.of(answer.status, await answer.read()), doing)
                yield answer
        except (ClientError, OSError, TimeoutError) as error:
            raise self._away(error) from error

    async def watch(
        self, path: str, *, doing: str, query: Query, seconds: int, silence: float = 60.0
    ) -> AsyncGenerator[tuple[str, Json], None]:
        """Events (`ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK`) until the server ends it after `seconds`.

        Raises `TooOld` when the resource version of the query is forgotten.
        """
        asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": seconds}
        async with self.stream(path, doing=doing, query=asked, silence=silence) as answer:
            async for line in _lines(answer):
                event = _parsed(line, doing)
                if event.get("type") == "ERROR":
                    status = event.get("object") or {}
                    raise fault_of(Refusal.of(int(status.get("code") or 500), json.dumps(status).encode()), doing)
                yield str(event.get("type")), event.get("object") or {}

    @asynccontextmanager
    async def forward(
        self, method: str, path: str, *, query: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> AsyncIterator[ClientResponse]:
        """A request for what stands behind the API server, as it is; whatever is answered, too, and never unpacked."""
        session, url, known = await self._behind(path, query)
        timeout = ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
        try:
            async with session.request(
                method,
                url,
                headers={**headers, "Accept-Encoding": "identity", **known},
                data=body,
                timeout=timeout,
                allow_redirects=False,
                auto_decompress=False,
            ) as answer:
                yield answer
        except (ClientError, OSError, TimeoutError) as error:
            raise self._away(error) from error

    @asynccontextmanager
    async def socket(
        self, path: str, *, query: str, headers: Mapping[str, str], max_bytes: int
    ) -> AsyncIterator[ClientWebSocketResponse]:
        """A WebSocket to what stands behind the API server."""
        session, url, known = await self._behind(path, query)
        try:
            async with session.ws_connect(
                url, headers={**headers, **known}, max_msg_size=max_bytes, timeout=ClientWSTimeout(ws_close=2)
            ) as opened:
                yield opened
        except (ClientError, OSError, TimeoutError) as error:
            raise self._away(error) from error

    async def _behind(self, path: str, query: str) -> tuple[ClientSession, str, dict[str, str]]:
        # An answer of its own shows that the credentials are in force; it also makes the session.
        await self.call("GET", "/version", doing="asking for the cluster's version")
        client = await self._open()
        _, url, known, _, _ = await client.param_serialize("GET", path, auth_settings=["BearerToken"])
        session = client.rest_client.pool_manager
        if session is None:
            raise RuntimeRetryable("the connection to the cluster is just being renewed")
        return session, f"{url}?{query}" if query else url, dict(known)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Json | None,
        accept: str,
        timeout: ClientTimeout,
        content: str = JSON,
    ) -> AsyncIterator[ClientResponse]:
        client = await self._open()
        serialized = await client.param_serialize(
            method,
            path,
            query_params=[(key, _text(value)) for key, value in (query or {}).items()],
            header_params={"Accept": accept, "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = (await client.call_api(*serialized, _request_timeout=timeout)).response
        try:
            yield answer
        finally:
            # Closes what was not read to its end; else the connection goes back.
            answer.release() if answer.content.at_eof() else answer.close()

    async def _open(self) -> ApiClient:
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._connected()
        return self._client

    async def _forget(self) -> None:
        """Read the credentials anew for the next request; those under way keep the connection they have."""
        async with self._opening:
            try:
                fresh = await self._connected()
            except RuntimeRetryable:
                return
            stale, self._client = self._client, fresh
            if stale is not None:
                asyncio.get_running_loop().call_later(self._settings.request_seconds, _let_go, stale)

    async def _connected(self) -> ApiClient:
        found = Configuration()
        file = self._settings.kubeconfig or os.environ.get("KUBECONFIG") or None
        if file is not None and not await asyncio.to_thread(Path(file).is_file):
            raise RuntimeRetryable(f"the cluster's access data are to be in {file}, which is no file")
        try:
            if file is None and self._settings.context is None and in_cluster():
                kubernetes_config.load_incluster_config(found)
            else:
                await kubernetes_config.load_kube_config(
                    config_file=None if file is None else str(file),
                    context=self._settings.context,
                    client_configuration=found,
                    persist_config=False,
                )
            found.connection_pool_maxsize = _MAX_CONNECTIONS
            # What kubectl accepts: authorities without the extensions that Python 3.13 began to insist on.
            found.disable_strict_ssl_verification = True
            return ApiClient(configuration=found)
        except (ConfigException, OSError, ValueError, KeyError, TypeError, yaml.YAMLError, ssl.SSLError) as error:
            where = file or ("the pod's own account" if in_cluster() else "~/.kube/config")
            raise RuntimeRetryable(f"the cluster's access data ({where}) cannot be used: {error}") from error

    @property
    def calm_seconds(self) -> float:
        """How long every call of this process has been answered by somebody; infinite when none ever was not."""
        return time.monotonic() - self._unanswered_at

    def _away(self, error: Exception) -> RuntimeRetryable:
        self._unanswered_at = time.monotonic()
        where = self._client.configuration.host if self._client is not None else "the cluster"
        match error:
            case ssl.SSLError() | ClientSSLError() | ClientConnectorCertificateError():
                return RuntimeRetryable(f"{where} shows a certificate that our access data do not trust")
            case TimeoutError():
                return RuntimeRetryable(f"{where} did not answer in time")
            case _:
                return RuntimeRetryable(f"no cluster answers at {where} ({type(error).__name__})")


def in_cluster() -> bool:
    """Whether this process is a pod with an account of its own."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and _ACCOUNT_TOKEN.is_file()


async def _lines(answer: ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines. aiohttp's own would end a watch at an object larger than its buffer."""
    kept = bytearray()
    async for chunk in answer.content.iter_any():
        kept += chunk
        *lines, rest = kept.split(b"\n")
        kept = rest
        if len(kept) > _MAX_LINE:
            raise RuntimePermanent(f"the cluster sent an object over {_MAX_LINE >> 20} MiB")
        for line in lines:
            if line.strip():
                yield bytes(line)


def _parsed(content: bytes, doing: str) -> Json:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RuntimeRetryable(f"{doing}: what answers is no Kubernetes API")
    return found


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _let_go(client: ApiClient) -> None:
    asyncio.get_running_loop().create_task(client.close())
