"""The OpenAPI document: FastAPI's, with the one schema that all errors share."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.alias_generators import to_camel

from api.problems import Problem

AGENTS_SIDE = "agents' side"
TAGS = [
    {"name": "agents", "description": "Agents of the caller."},
    {"name": "commands", "description": "What an agent's browser is told to do, and what it made."},
    {"name": "account", "description": "The caller."},
    {"name": "admin", "description": "For administrators: the token's `role` is `admin`."},
    {"name": AGENTS_SIDE, "description": "For agents, with the agent's own token."},
    {"name": "service", "description": "For whoever runs Berth; without a token."},
]


def document_of(app: FastAPI) -> dict[str, Any]:
    """The document of `app`, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= schema.pop("$defs", {})
        schemas["Problem"] = schema
        _add_agents_token(document)
        app.openapi_schema = document
    return app.openapi_schema


def operation_id(route: APIRoute) -> str:
    """The function's name, unless the route says otherwise."""
    return to_camel(route.name)


def _add_agents_token(document: dict[str, Any]) -> None:
    # Read from either of two headers by hand, so that FastAPI does not know of it.
    schemes = document["components"].setdefault("securitySchemes", {})
    schemes["agentToken"] = {"type": "apiKey", "in": "header", "name": "X-Agent-Token"}
    for methods in document["paths"].values():
        for operation in methods.values():
            if AGENTS_SIDE in operation.get("tags", []):
                operation["security"] = [{"agentToken": []}]
