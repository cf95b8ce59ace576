"""The host supervisor's HTTP: every method of its runtimes, for whoever may open its socket."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from core.domain.templates import Template
from core.errors import RuntimeFault
from core.runtime.base import AgentRuntime, AgentSpec, Observation, PrunableRuntime, Pruned
from core.runtime.host.wire import (
    KEEP_ALIVE_SECONDS,
    MAX_BODY_BYTES,
    Checked,
    Elsewhere,
    Fault,
    Profile,
    Prune,
    Resize,
    dump_reach,
    fault_of,
    wanted_of,
)

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_MAX_GRACE_SECONDS = 3600.0
_LIST = TypeAdapter(list[Observation])
Body = TypeVar("Body", bound=BaseModel)


def build_app(runtimes: Mapping[str, AgentRuntime]) -> Starlette:
    doors = _Doors(runtimes)
    agent = "/{runtime}/agents/{agent_id}/{attempt:int}"
    return Starlette(
        routes=[
            Route("/health", doors.health),
            Route("/{runtime}/agents", doors.list),
            Route("/{runtime}/capacity", doors.capacity),
            Route("/{runtime}/watch", doors.watch),
            Route("/{runtime}/profiles/delete", doors.delete_profile, methods=["POST"]),
            Route("/{runtime}/check", doors.check, methods=["POST"]),
            Route("/{runtime}/prune", doors.prune, methods=["POST"]),
            Route("/{runtime}/agents/{agent_id}/logs", doors.logs),
            Route(f"{agent}/reach", doors.reach),
            Route(f"{agent}/resize", doors.resize, methods=["POST"]),
            Route(f"{agent}/elsewhere", doors.elsewhere, methods=["POST"]),
            Route(agent, doors.create, methods=["PUT"]),
            Route(agent, doors.observe, methods=["GET"]),
            Route(agent, doors.delete, methods=["DELETE"]),
        ],
        exception_handlers={RuntimeFault: _answer_fault, HTTPException: _answer_refusal, Exception: _answer_internal},
    )


class _Doors:
    def __init__(self, runtimes: Mapping[str, AgentRuntime]) -> None:
        self._runtimes = runtimes

    def _runtime(self, request: Request) -> AgentRuntime:
        name = request.path_params["runtime"]
        if name not in self._runtimes:
            raise HTTPException(404, f"this host has no runtime {name!r}")
        return self._runtimes[name]

    def _attempt(self, request: Request) -> tuple[AgentRuntime, str, int]:
        return self._runtime(request), _agent_id(request), request.path_params["attempt"]

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "runtimes": sorted(self._runtimes)})

    async def create(self, request: Request) -> Response:
        runtime, agent_id, attempt = self._attempt(request)
        spec = await _body(request, AgentSpec)
        if (spec.agent_id, spec.attempt) != (agent_id, attempt):
            raise HTTPException(422, "path and body name different agents")
        return _json(await runtime.create(spec))

    async def observe(self, request: Request) -> Response:
        runtime, agent_id, attempt = self._attempt(request)
        return _json(await runtime.observe(agent_id, attempt))

    async def delete(self, request: Request) -> Response:
        runtime, agent_id, attempt = self._attempt(request)
        return _json(await runtime.delete(agent_id, attempt, _grace(request)))

    async def reach(self, request: Request) -> Response:
        runtime, agent_id, attempt = self._attempt(request)
        return JSONResponse(dump_reach(await runtime.reach(agent_id, attempt)))

    async def resize(self, request: Request) -> Response:
        runtime, agent_id, attempt = self._attempt(request)
        return _json(await runtime.resize(agent_id, attempt, (await _body(request, Resize)).size))

    async def elsewhere(self, request: Request) -> Response:
        runtime, agent_id, attempt = self._attempt(request)
        wanted = await _body(request, Elsewhere)
        return _json(Elsewhere(node=await runtime.elsewhere(agent_id, attempt, wanted.template)))

    async def list(self, request: Request) -> Response:
        return Response(_LIST.dump_json(await self._runtime(request).list()), media_type="application/json")

    async def capacity(self, request: Request) -> Response:
        found = await self._runtime(request).capacity(_wanted(request))
        # An older control plane takes no field that it does not know.
        return Response(found.model_dump_json(exclude_defaults=True), media_type="application/json")

    async def delete_profile(self, request: Request) -> Response:
        profile = await _body(request, Profile)
        await self._runtime(request).delete_profile(profile.user_id, profile.project_id)
        return Response(status_code=204)

    async def check(self, request: Request) -> Response:
        await self._runtime(request).check((await _body(request, Checked)).template)
        return Response(status_code=204)

    async def prune(self, request: Request) -> Response:
        """A runtime that keeps nothing has nothing to clear away."""
        runtime, wanted = self._runtime(request), await _body(request, Prune)
        if not isinstance(runtime, PrunableRuntime):
            return _json(Pruned())
        return _json(await runtime.prune(timedelta(seconds=wanted.unused_seconds), wanted.keep))

    async def watch(self, request: Request) -> Response:
        changes = self._runtime(request).watch()
        return StreamingResponse(_lines(changes), media_type="application/x-ndjson")

    async def logs(self, request: Request) -> Response:
        follow = request.query_params.get("follow", "0") not in {"0", "false", ""}
        log = self._runtime(request).logs(_agent_id(request), follow=follow)
        return StreamingResponse(_until_closed(log), media_type="text/plain; charset=utf-8")


async def _lines(changes: AsyncIterator[Observation]) -> AsyncIterator[bytes]:
    """Each change as a line of JSON; an empty line at once and whenever there was silence."""
    yield b"\n"
    upcoming = asyncio.ensure_future(anext(changes))
    try:
        while True:
            done, _ = await asyncio.wait([upcoming], timeout=KEEP_ALIVE_SECONDS)
            if not done:
                yield b"\n"
                continue
            yield upcoming.result().model_dump_json(exclude_defaults=True).encode() + b"\n"
            upcoming = asyncio.ensure_future(anext(changes))
    except (RuntimeFault, StopAsyncIteration):
        return  # the stream's end is what tells the client to list and watch again
    finally:
        upcoming.cancel()


async def _until_closed(log: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in log:
            yield chunk
    except RuntimeFault:
        return  # the runtime closes; the client has what there was


def _agent_id(request: Request) -> str:
    agent_id: str = request.path_params["agent_id"]
    if not _AGENT_ID.fullmatch(agent_id):
        raise HTTPException(422, "an agent id has 1 to 63 letters, digits, '-' or '_'")
    return agent_id


def _wanted(request: Request) -> dict[str, Template] | None:
    asked = request.query_params.get("wanted")
    if asked is None:
        return None
    try:
        return wanted_of(asked)
    except ValidationError:
        raise HTTPException(422, "wanted is an object of templates by name") from None


def _grace(request: Request) -> float:
    try:
        grace = float(request.query_params.get("grace", "0"))
    except ValueError:
        grace = math.nan
    if not 0 <= grace <= _MAX_GRACE_SECONDS:
        raise HTTPException(422, f"grace is a number of seconds from 0 to {_MAX_GRACE_SECONDS:.0f}")
    return grace


async def _body(request: Request, model: type[Body]) -> Body:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a body has at most {MAX_BODY_BYTES} bytes")
    try:
        return model.model_validate_json(bytes(content))
    except ValidationError as error:
        # Without the input: it may hold a token.
        wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)[:5])
        raise HTTPException(422, wrong) from None


def _json(value: BaseModel) -> Response:
    return Response(value.model_dump_json(), media_type="application/json")


async def _answer_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, RuntimeFault)  # noqa: S101  registered for it alone
    status, fault = fault_of(error)
    return JSONResponse(fault.model_dump(), status_code=status)


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for it alone
    return JSONResponse(Fault(code="refused", detail=error.detail).model_dump(), status_code=error.status_code)


async def _answer_internal(request: Request, error: Exception) -> Response:
    """The last resort; the web server logs the error with its trace."""
    return JSONResponse(Fault(code="internal", detail="the host supervisor failed").model_dump(), status_code=500)
