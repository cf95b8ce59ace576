"""Every error answer as `application/problem+json` (RFC 9457), made from the one tree in `core.errors`."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from core.errors import BerthError, InvalidRequest, NotFound, TooLarge, Unauthenticated, Unavailable
from core.ids import MalformedId

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_SECONDS = 5
_MOST_FIELDS = 20


class FieldProblem(BaseModel):
    """One field of a request and what is wrong with it; the value itself is not repeated."""

    where: str
    problem: str


class Problem(BaseModel):
    """What went wrong. Branch on `code`, show `detail`; `action` says what would help. More members may follow."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(description="a URI for the code")
    title: str
    status: int | str = Field(description="the HTTP status; the word `rejected` where start-agent was refused")
    detail: str
    code: str
    action: str | None = None
    errors: list[FieldProblem] | None = Field(None, description="with `invalid_request`: the fields concerned")


class MethodNotAllowed(BerthError):
    code, status = "method_not_allowed", 405


def body_of(error: BerthError) -> dict[str, Any]:
    """The problem as JSON. Names in `error.extra` become camelCase members; None is left out."""
    code = error.error_code
    body: dict[str, Any] = {
        "type": f"urn:berth:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": error.status,
        "detail": error.detail,
        "code": code,
        "action": error.action,
    }
    body |= {to_camel(name): value for name, value in error.extra.items() if name != "retry_after"}
    return {name: value for name, value in body.items() if value is not None}


def headers_of(error: BerthError) -> dict[str, str]:
    headers = {}
    if error.retryable:
        headers["Retry-After"] = str(error.extra.get("retry_after", _RETRY_AFTER_SECONDS))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def answer(error: BerthError, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body_of(error), error.status, {**headers_of(error), **(headers or {})}, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem, also those of the router and of the framework's own parsing."""
    handlers: dict[type[Exception], Any] = {
        BerthError: _on_berth_error,
        MalformedId: _on_malformed_id,
        RequestValidationError: _on_invalid,
        HTTPException: _on_http,
        DBAPIError: _on_database,
        PoolTimeout: _on_database,
        # As `core.db.engine` has it; any other OSError is of our own files, and a fault of ours.
        ConnectionError: _on_database,
        TimeoutError: _on_database,
        Exception: _on_anything,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _on_berth_error(request: Request, error: BerthError) -> Response:
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("api.failed", path=request.url.path, code=error.error_code, detail=error.detail)
    return answer(error)


async def _on_malformed_id(_: Request, error: MalformedId) -> Response:
    return answer(InvalidRequest(str(error)))


async def _on_invalid(_: Request, error: RequestValidationError) -> Response:
    return answer(
        InvalidRequest("the request is not one that Berth understands", errors=field_problems(error.errors()))
    )


def field_problems(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Pydantic's errors as `{"where", "problem"}`, without what was sent: it may be a secret, or very long."""
    return [
        {"where": ".".join(str(part)[:100] for part in item["loc"])[:300], "problem": str(item["msg"])[:300]}
        for item in errors[:_MOST_FIELDS]
    ]


async def _on_http(_: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return answer(NotFound("there is nothing here"), headers)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return answer(MethodNotAllowed("this path does not take that method"), headers)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return answer(TooLarge("the body is larger than this path takes"), headers)
        case HTTPStatus.UNAUTHORIZED:
            return answer(Unauthenticated("a bearer token is needed"), headers)
        case _:
            # What is left is the framework's 400 for a body that cannot be read at all (not UTF-8, nested too deep).
            return answer(InvalidRequest("the body cannot be read"), headers)


# Connection exceptions, rollbacks and deadlocks, insufficient resources, not ready, operator intervention and timeouts.
_PASSING = re.compile(r"^(08|40|53|55|57)")


async def _on_database(request: Request, error: Exception) -> Response:
    """A database that does not answer is `unavailable`; one that refuses a statement is a fault of ours."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if isinstance(error, DBAPIError) and not error.connection_invalidated and state and not _PASSING.match(state):
        return await _on_anything(request, error)
    log.warning("api.database_unavailable", path=request.url.path, kind=type(error).__name__, sqlstate=state)
    return answer(Unavailable("the database does not answer right now", code="database_unavailable"))


async def _on_anything(request: Request, error: Exception) -> Response:
    log.error("api.internal_error", path=request.url.path, method=request.method, exc_info=error)
    return answer(BerthError("something failed inside Berth; it is in the log"))


type_or_code = type[BerthError] | tuple[type[BerthError], str]


def responses(*refusals: type_or_code) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI: one entry a status with an example for each refusal it can give.

    What every route with a token can answer (401, unknown user, malformed request, 413, 500, 503) is always there.
    """
    always: tuple[type_or_code, ...] = (
        Unauthenticated, (NotFound, "unknown_user"), InvalidRequest, TooLarge, BerthError,
        (Unavailable, "database_unavailable"), (Unavailable, "server_leaving"),
    )  # fmt: skip
    return problems(*always, *refusals)


def problems(*refusals: type_or_code) -> dict[int | str, dict[str, Any]]:
    """Like `responses`, with nothing but what is named."""
    found: dict[int | str, dict[str, Any]] = {}
    for refusal in refusals:
        kind, code = refusal if isinstance(refusal, tuple) else (refusal, refusal.code)
        example = body_of(kind(f"a sentence about {code.replace('_', ' ')}", code=code))
        schema = {"$ref": "#/components/schemas/Problem"}
        entry = found.setdefault(
            kind.status,
            {
                "description": HTTPStatus(kind.status).phrase,
                "content": {MEDIA_TYPE: {"schema": schema, "examples": {}}},
            },
        )
        entry["content"][MEDIA_TYPE]["examples"][code] = {"value": example}
        if kind.retryable:
            entry["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return found
