"""No body over 1 MiB is taken in, whether or not it says beforehand how long it is."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from core.errors import TooLarge

MAX_BODY_BYTES = 1 << 20
# How much of a refused body is read and thrown away, and for how long.
_REST_BYTES = 8 << 20
_REST_SECONDS = 2.0
# Streamed to the database piece by piece, with a limit of its own.
_STREAMED = "/agent-artefacts/"


class _Exceeded(Exception):
    """Ends the reading of a body; caught where it was thrown in."""


class BodyLimit:
    """ASGI middleware. Whatever the app makes of a body that breaks off, the caller is told 413 once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_STREAMED):
            await self._app(scope, receive, send)
            return
        if _announced(scope) > MAX_BODY_BYTES:
            await _refuse(scope, receive, send)
            return
        taken = 0
        started = False

        async def receive_counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:
                raise _Exceeded
            return message

        async def send_unless_exceeded(message: Message) -> None:
            nonlocal started
            if taken > MAX_BODY_BYTES and not started:
                return
            started = True
            await send(message)

        with suppress(_Exceeded):
            await self._app(scope, receive_counted, send_unless_exceeded)
        if taken > MAX_BODY_BYTES and not started:
            await _refuse(scope, receive, send)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            # As many digits as any true length has: int() of thousands of them takes its time.
            return int(value[:20])
    return 0


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = TooLarge("a body may have 1 MiB")
    # Most clients send all of it before they read the answer, and one closed in the middle of that tells them nothing.
    with suppress(TimeoutError):
        async with asyncio.timeout(_REST_SECONDS):
            await _drop_rest(receive)
    # What is left is not read, so the connection cannot be used for another request.
    await problems.answer(error, {"Connection": "close"})(scope, receive, send)


async def _drop_rest(receive: Receive) -> None:
    dropped = 0
    while dropped < _REST_BYTES:
        message = await receive()
        dropped += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return
