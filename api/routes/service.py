"""`/health`, `/ready` and `/metrics`: for whoever runs this process.

Nobody needs a token for them. So that no crowd of callers takes the database's connections from everybody else, one
look at a time is taken for all of them, and shown for a second.
"""

import asyncio
from collections.abc import Mapping
from importlib.metadata import version

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api import problems
from api.deps import Probe
from api.fresh import Fresh
from api.metrics import CONTENT_TYPE
from api.schemas.service import HealthBody, ReadyBody
from core.errors import BerthError, Unavailable

log = structlog.get_logger()
router = APIRouter(tags=["service"])

VERSION = version("berth")
SHOWN_SECONDS = 1.0
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
async def ready(request: Request) -> ReadyBody:
    found: Fresh[dict[str, str]] = request.app.state.ready
    checks = await found.get()
    if any(answer != "ok" for answer in checks.values()):
        raise Unavailable("a part of Berth does not answer", code="not_ready", checks=checks, retry_after=1)
    return ReadyBody(checks=checks)


async def check(probes: Mapping[str, Probe]) -> dict[str, str]:
    """What each part answers, `ok` or what is wrong, after two seconds at most."""
    names = list(probes)
    found = await asyncio.gather(*(_probe(name, probes[name]) for name in names))
    return dict(zip(names, found, strict=True))


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
async def metrics(request: Request) -> Response:
    shown: Fresh[bytes] = request.app.state.shown
    return Response(await shown.get(), media_type=CONTENT_TYPE)
