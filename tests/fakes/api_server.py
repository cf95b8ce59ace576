"""As much of a Kubernetes API server as we talk to: versions, watches, conflicts, forgetting, what owns what."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import uuid4

from aiohttp import web

Json = dict[str, Any]
_LISTED = ("pods", "nodes", "events", "secrets", "services", "persistentvolumeclaims", "resourcequotas")
_OVER_QUOTA = "it is forbidden: exceeded quota: agents, requested: pods=1, used: pods=4, limited: pods=4"


class ApiServer:
    """Objects by path, with etcd's one count of versions. `forget` compacts its history: older watches get 410."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Json]] = {}
        self._history: list[tuple[int, str, str, Json]] = []
        self._forgotten = 0
        self._versions = count(1)
        self._version = 0
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.asked: list[str] = []
        self.refused: dict[str, int] = {}  # "METHOD /path" to the status that it is answered with
        self.used_up: set[str] = set()  # paths of collections whose quota lets no more in

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve, on the port of before where there was one; objects and history outlive a stop, as etcd's do."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # ---- what happens in the cluster --------------------------------------------------------------------------------

    def put(self, path: str, thing: Json) -> Json:
        """Make or replace an object of the collection at `path`; returns it as it is stored."""
        things = self._objects.setdefault(path, {})
        name = thing["metadata"]["name"]
        before = things.get(name)
        meta = {
            "uid": before["metadata"]["uid"] if before else str(uuid4()),
            "creationTimestamp": before["metadata"]["creationTimestamp"] if before else _now(),
            **thing["metadata"],
            "resourceVersion": self._next(),
        }
        things[name] = {**thing, "metadata": meta}
        self._note(path, "MODIFIED" if before else "ADDED", things[name])
        return things[name]

    def status(self, path: str, name: str, **status: Any) -> Json:
        thing = self._objects[path][name]
        return self.put(path, {**thing, "status": status})

    def remove(self, path: str, name: str) -> None:
        thing = self._objects[path].pop(name)
        last = {**thing, "metadata": {**thing["metadata"], "resourceVersion": self._next()}}
        self._note(path, "DELETED", last)

    def get(self, path: str, name: str) -> Json | None:
        return self._objects.get(path, {}).get(name)

    def names(self, path: str) -> list[str]:
        return sorted(self._objects.get(path, {}))

    def forget(self) -> None:
        self._history.clear()
        self._forgotten = self._version

    def _next(self) -> str:
        self._version = next(self._versions)
        return str(self._version)

    def _note(self, path: str, kind: str, thing: Json) -> None:
        self._history.append((self._version, path, kind, thing))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # ---- the wire ---------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, query = request.path, request.query
        self.asked.append(f"{request.method} {path}" + ("?watch" if query.get("watch") == "true" else ""))
        if status := self.refused.get(f"{request.method} {path}"):
            return _refusal(status, path.rpartition("/")[2])
        collection, _, name = path.rpartition("/")
        match request.method:
            case "GET" if query.get("watch") == "true":
                return await self._watch(request)
            case "GET" if name in self._objects.get(collection, {}):
                return web.json_response(self._objects[collection][name])
            case "GET" if name in _LISTED:
                return self._list(path, request)
            case "DELETE" if name in self._objects.get(collection, {}):
                self._collect(self._objects[collection][name])
                self.remove(collection, name)
                return web.json_response({"kind": "Status", "status": "Success"})
            case "POST":
                body = await request.json()
                # Before it looks whether that name is there, as a real one does.
                if path in self.used_up:
                    return _status(403, "Forbidden", _OVER_QUOTA)
                if body["metadata"]["name"] in self._objects.get(path, {}):
                    return _status(409, "AlreadyExists", "it exists")
                return web.json_response(self.put(path, _filled(path, body)), status=201)
            case "PUT":
                body = await request.json()
                there = self._objects.get(collection, {}).get(name)
                if there is None:
                    return _status(404, "NotFound", "it is not there")
                if body["metadata"].get("resourceVersion") not in (None, there["metadata"]["resourceVersion"]):
                    return _status(409, "Conflict", "the object has been modified")
                return web.json_response(self.put(collection, body))
            case _:
                return _status(404, "NotFound", "it is not there")

    def _collect(self, owner: Json) -> None:
        """Take away what `owner` owned, as a cluster does a moment later."""
        for path, things in self._objects.items():
            for name, thing in list(things.items()):
                owners = thing["metadata"].get("ownerReferences") or ()
                if any(each["uid"] == owner["metadata"]["uid"] for each in owners):
                    self.remove(path, name)

    def _list(self, path: str, request: web.Request) -> web.Response:
        found = [thing for thing in self._under(path) if _selected(thing, request)]
        start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or len(found) or 1)
        more = str(start + limit) if start + limit < len(found) else ""
        meta = {"resourceVersion": str(self._version), "continue": more}
        page = found[start : start + limit]
        if "PartialObjectMetadata" in request.headers.get("Accept", ""):
            page = [{"metadata": thing["metadata"]} for thing in page]
        return web.json_response({"metadata": meta, "items": page})

    def _under(self, path: str) -> list[Json]:
        """The objects of a collection; of all namespaces where its path names none."""
        kind = path.removeprefix("/api/v1/")
        everywhere = [each for each in self._objects if each.startswith("/api/v1/namespaces/") and "/" not in kind]
        collections = [path, *(each for each in everywhere if each.endswith(f"/{kind}"))]
        return [thing for each in collections for thing in self._objects.get(each, {}).values()]

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        if version < self._forgotten:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await answer.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return answer
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(request.query.get("timeoutSeconds") or 60)):
                while True:
                    changed = self._changed
                    for at, path, kind, thing in list(self._history):
                        if at > version and path == request.path and _selected(thing, request):
                            await answer.write(json.dumps({"type": kind, "object": thing}).encode() + b"\n")
                    version = max(version, self._version)
                    await changed.wait()
        return answer


def _filled(path: str, thing: Json) -> Json:
    """With what a server adds to an object that is made: its namespace, and what a Secret says in plain words."""
    inside, _, kind = path.partition("/namespaces/")[2].partition("/")
    if kind:
        thing["metadata"].setdefault("namespace", inside)
    plain = thing.pop("stringData", None)
    if plain is not None:
        thing["data"] = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
    return thing


def _selected(thing: Json, request: web.Request) -> bool:
    labels = thing["metadata"].get("labels") or {}
    wanted = [pair.partition("=") for pair in request.query.get("labelSelector", "").split(",") if pair]
    if not all(labels.get(key) == value for key, _, value in wanted):
        return False
    fields = [pair.partition("=") for pair in request.query.get("fieldSelector", "").split(",") if pair]
    return all((_field(thing, key.removesuffix("!")) == value) != key.endswith("!") for key, _, value in fields)


def _field(thing: Json, path: str) -> Any:
    for part in path.split("."):
        thing = thing.get(part) or {}
    return thing or ""


def _refusal(code: int, what: str) -> web.Response:
    if code == 403:
        return _status(code, "Forbidden", f'{what} is forbidden: User "u" cannot list resource "{what}"')
    return _status(code, "Refused", "told to refuse it")


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": message}, status=code)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
