"""Which pages may open a socket here: our own. Programs send no Origin and are let through to the other checks."""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from core.errors import Forbidden


def check_origin(connection: HTTPConnection, public_url: str) -> None:
    """Raises `Forbidden` for a page that is neither of the public address nor of the one that was called.

    Nothing here works by cookie, so a foreign page could do little; it has no business all the same.
    """
    origin = connection.headers.get("origin")
    if origin is None:
        return
    public = urlsplit(public_url)
    host = connection.headers.get("host", "")
    if origin not in {f"{public.scheme}://{public.netloc}", f"http://{host}", f"https://{host}"}:
        raise Forbidden("a page of another origin may not connect")
