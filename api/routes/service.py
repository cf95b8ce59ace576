"""`/health`, `/ready` and `/metrics`: for whoever runs this process."""

import asyncio
from importlib.metadata import version

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api import problems
from api.deps import DepsOf, Probe
from api.metrics import CONTENT_TYPE, Metrics
from api.schemas.service import HealthBody, ReadyBody
from core.errors import BerthError, Unavailable

log = structlog.get_logger()
router = APIRouter(tags=["service"])

VERSION = version("berth")
_PROBE_SECONDS = 2.0


@router.get("/health", operation_id="health", summary="The process lives", responses=problems.problems(BerthError))
async def health() -> HealthBody:
    return HealthBody(version=VERSION)


@router.get(
    "/ready",
    operation_id="ready",
    summary="The parts it depends on answer",
    responses=problems.problems((Unavailable, "not_ready"), BerthError),
)
async def ready(deps: DepsOf) -> ReadyBody:
    names = list(deps.probes)
    found = await asyncio.gather(*(_probe(name, deps.probes[name]) for name in names))
    checks = dict(zip(names, found, strict=True))
    if any(answer != "ok" for answer in checks.values()):
        raise Unavailable("a part of Berth does not answer", code="not_ready", checks=checks, retry_after=1)
    return ReadyBody(checks=checks)


async def _probe(name: str, probe: Probe) -> str:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            await probe()
    except TimeoutError:
        return "no answer"
    except Exception as error:  # whatever is wrong with a part, /ready is where it is told
        log.warning("ready.failed", check=name, kind=type(error).__name__)
        return "failed"
    return "ok"


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="For Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **problems.problems(BerthError)},
)
async def metrics(request: Request, deps: DepsOf) -> Response:
    shown: Metrics = request.app.state.metrics
    return Response(await shown.render(deps.db, deps.settings), media_type=CONTENT_TYPE)
