"""The HTTP API: `create_app` puts it together from given parts, `run_api` opens those parts and serves it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from api import problems
from api.deps import Deps
from api.metrics import Metrics
from api.paths import decode_parameters
from api.problems import Problem
from api.requests import Requests
from api.routes import agents, service, start
from api.routes.service import VERSION
from api.services.start import Starter
from core.domain.wire import MAX_MESSAGE_BYTES
from core.settings import Settings

_DESCRIPTION = "Gives every user a browser agent of their own, and owns that agent's whole life."
_TAGS = [
    {"name": "agents", "description": "Agents of the caller."},
    {"name": "account", "description": "The caller."},
    {"name": "admin", "description": "For administrators: the token's `role` is `admin`."},
    {"name": "service", "description": "For whoever runs Berth; without a token."},
]


def create_app(settings: Settings, deps: Deps) -> FastAPI:
    """The app over `deps`, which the caller opens and closes."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await app.state.starter.close()

    app = FastAPI(
        title="Berth",
        version=VERSION,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(decode_parameters)],
        max_body_size=MAX_MESSAGE_BYTES,
    )
    app.state.deps = deps
    app.state.settings = settings
    app.state.starter = Starter(deps)
    app.state.metrics = Metrics()
    app.add_middleware(Requests, metrics=app.state.metrics)
    problems.install(app)
    for module in (start, agents, service):
        app.include_router(module.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with our one error schema; made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= schema.pop("$defs", {})
        schemas["Problem"] = schema
        app.openapi_schema = document
    return app.openapi_schema
