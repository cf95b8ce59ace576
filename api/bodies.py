"""No body over 1 MiB is taken in, whether or not it says beforehand how long it is, and none that takes for ever."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from core.errors import BerthError, InvalidRequest, TooLarge

MAX_BODY_BYTES = 1 << 20
# How much of a refused body is read and thrown away, and for how long.
_REST_BYTES = 8 << 20
_REST_SECONDS = 2.0
# Streamed to the database piece by piece, with a limit of its own.
_STREAMED = "/agent-artefacts/"


# For all of a body that is not streamed.
BODY_SECONDS = 30.0


class _Refused(Exception):
    """Ends the reading of a body; caught where it was thrown in."""


class BodyLimit:
    """ASGI middleware. Whatever the app makes of a body that breaks off, the caller is told once why it did."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_STREAMED):
            await self._app(scope, receive, send)
            return
        if _announced(scope) > MAX_BODY_BYTES:
            await _refuse(_too_large(), scope, receive, send)
            return
        body = _Body(receive)
        started = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if body.refused is not None and not started:
                return
            started = True
            await send(message)

        with suppress(_Refused):
            await self._app(scope, body.receive, send_unless_refused)
        if body.refused is not None and not started:
            await _refuse(body.refused, scope, receive, send)


class _Body:
    """What has come of one request's body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._taken = 0
        self._until: float | None = asyncio.get_running_loop().time() + BODY_SECONDS
        self.refused: BerthError | None = None

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise self._refuse(InvalidRequest("the body did not come in time", code="body_stalled")) from None
        self._taken += len(message.get("body", b""))
        if self._taken > MAX_BODY_BYTES:
            raise self._refuse(_too_large())
        if not message.get("more_body"):
            # What is asked for after the end is whether the caller is still there.
            self._until = None
        return message

    def _refuse(self, error: BerthError) -> type[_Refused]:
        self.refused = error
        return _Refused


def _too_large() -> TooLarge:
    return TooLarge("a body may have 1 MiB")


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            # As many digits as any true length has: int() of thousands of them takes its time.
            return int(value[:20])
    return 0


async def _refuse(error: BerthError, scope: Scope, receive: Receive, send: Send) -> None:
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
