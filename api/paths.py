"""Ids in paths: any id can stand in a path percent-encoded, also one with a slash.

Servers decode a path before routes are matched, which makes `a%2Fb` two segments. Here routes are matched on the path
as it was sent, and each of its parameters is decoded afterwards.
"""

from urllib.parse import quote, unquote

from starlette.requests import HTTPConnection
from starlette.types import Scope
from structlog.contextvars import bind_contextvars

from core.ids import MalformedId

_MOST_LOGGED = 100


def keep_encoded(scope: Scope) -> None:
    """Let routes be matched on the path as it was sent."""
    raw = scope.get("raw_path")
    scope["path"] = raw.decode("latin-1") if raw else quote(scope["path"])


async def decode_parameters(connection: HTTPConnection) -> None:
    """Dependency of the whole app, so it runs before any parameter is read. Raises `MalformedId`."""
    try:
        decoded = {name: unquote(value, errors="strict") for name, value in connection.path_params.items()}
    except UnicodeDecodeError:
        raise MalformedId("the path is not percent-encoded UTF-8") from None
    connection.scope["path_params"] = decoded
    if (agent_id := decoded.get("agentId")) is not None:
        # For every line that the request logs from here on; whatever was sent as an id, however long.
        bind_contextvars(agent_id=agent_id[:_MOST_LOGGED])
