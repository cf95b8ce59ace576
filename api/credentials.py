"""What a request shows of who sends it, read from its head alone; whether it is true is asked by others."""

from starlette.requests import HTTPConnection

from core.errors import Forbidden, Unauthenticated

_TOKEN_CHARACTERS = 512


def bearer(connection: HTTPConnection) -> str:
    """A person's token. Raises `Unauthenticated` for none."""
    token = _bearer(connection)
    if not token:
        raise no_bearer()
    return token


def no_bearer() -> Unauthenticated:
    return Unauthenticated("a bearer token is needed", action="log_in")


def agent_token(connection: HTTPConnection) -> str:
    """An agent's token.

    Raises `Unauthenticated` for none, and `Forbidden` for a page's request: programs send no Origin.
    """
    if "origin" in connection.headers:
        raise Forbidden("browsers have no business here")
    token = connection.headers.get("x-agent-token") or _bearer(connection)
    if not token or len(token) > _TOKEN_CHARACTERS:
        raise Unauthenticated("the agent's token is missing")
    return token


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
