"""A caller who hangs up while the answer is not there yet."""

from starlette.requests import Request


async def departed(request: Request) -> None:
    """Returns when the caller of `request`, whose body was read to its end, is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
