"""No body over 1 MiB is taken in, whether or not it says beforehand how long it is."""

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from core.errors import TooLarge

MAX_BODY_BYTES = 1 << 20
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
    # The rest of the body is not read, so the connection cannot be used for another request.
    await problems.answer(error, {"Connection": "close"})(scope, receive, send)
