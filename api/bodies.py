"""No body over 1 MiB is taken in, none that takes for ever, none of somebody unknown, and not too many at a time."""

import asyncio
from collections import Counter
from contextlib import suppress

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import credentials, problems
from api.auth import Verifier
from core.errors import BerthError, Busy, InvalidRequest, TooLarge

MAX_BODY_BYTES = 1 << 20
# What this process holds of bodies that are still on their way, of all and of one user; of all agents as of one user.
MAX_HELD_BYTES = 64 << 20
MAX_HELD_BYTES_OF_ONE = 8 << 20
# Does not count, for a connection costs as much without it: the usual body is smaller and is never told to come again.
UNCOUNTED_BYTES = 16 << 10
# How much of a refused body is read and thrown away, and for how long.
_REST_BYTES = 8 << 20
_REST_SECONDS = 2.0
# Streamed to the database piece by piece, with a limit of its own.
_STREAMED = "/agent-artefacts/"
_AGENTS_DOORS = "/agent-"
_AGENTS = "agents"


# For all of a body that is not streamed.
BODY_SECONDS = 30.0


class _Refused(Exception):
    """Ends the reading of a body; caught where it was thrown in."""


class BodyLimit:
    """ASGI middleware. Whatever the app makes of a body that breaks off, the caller is told once why it did.

    The framework reads a body before it asks who sends it, so that is asked here: nothing is read for somebody who
    shows no token, and little is kept for one whose token is not true.
    """

    def __init__(self, app: ASGIApp, verifier: Verifier) -> None:
        self._app = app
        self._verifier = verifier
        self._held = _Held()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_STREAMED):
            await self._app(scope, receive, send)
            return
        if _announced(scope) > MAX_BODY_BYTES:
            await _refuse(_too_large(), scope, receive, send)
            return
        body = _Body(HTTPConnection(scope), receive, self._verifier, self._held)
        started = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if body.refused is not None and not started:
                return
            started = True
            await send(message)

        try:
            with suppress(_Refused):
                await self._app(scope, body.receive, send_unless_refused)
        finally:
            body.let_go()
        if body.refused is not None and not started:
            await _refuse(body.refused, scope, receive, send)


class _Held:
    """How much there is of bodies that are still on their way."""

    def __init__(self) -> None:
        self._all = 0
        self._of: Counter[str] = Counter()

    def take(self, holder: str, size: int) -> None:
        """Raises `Busy` when it is too much."""
        if self._all + size > MAX_HELD_BYTES or self._of[holder] + size > MAX_HELD_BYTES_OF_ONE:
            raise Busy("too many large bodies are on their way to this server")
        self._all += size
        self._of[holder] += size

    def give_back(self, holder: str, size: int) -> None:
        self._all -= size
        self._of[holder] -= size
        if not self._of[holder]:
            del self._of[holder]


class _Body:
    """What has come of one request's body."""

    def __init__(self, request: HTTPConnection, receive: Receive, verifier: Verifier, held: _Held) -> None:
        self._request, self._receive, self._verifier, self._held = request, receive, verifier, held
        self._taken = self._counted = 0
        self._holder: str | None = None
        self._until: float | None = asyncio.get_running_loop().time() + BODY_SECONDS
        self.refused: BerthError | None = None

    async def receive(self) -> Message:
        try:
            return await self._next()
        except BerthError as error:
            self.refused = error
            raise _Refused from None

    def let_go(self) -> None:
        """It is whole, or there will be no more of it."""
        if self._holder is not None:
            self._held.give_back(self._holder, self._counted)
        self._holder, self._counted = None, 0

    async def _next(self) -> Message:
        if not self._taken and _has_body(self._request):
            self._token()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise InvalidRequest("the body did not come in time", code="body_stalled") from None
        self._taken += len(message.get("body", b""))
        if self._taken > MAX_BODY_BYTES:
            raise _too_large()
        if message.get("more_body"):
            await self._count()
        else:
            # What is asked for after the end is whether the caller is still there.
            self._until = None
            self.let_go()
        return message

    async def _count(self) -> None:
        more = self._taken - UNCOUNTED_BYTES - self._counted
        if more <= 0:
            return
        holder = self._holder or await self._who()
        self._held.take(holder, more)
        self._holder, self._counted = holder, self._counted + more

    async def _who(self) -> str:
        """Who answers for what is held: no stranger for a user's share."""
        token = self._token()
        if self._at_agents_doors():
            return _AGENTS
        return f"user {(await self._verifier.verify(token)).user_id}"

    def _token(self) -> str:
        shown = credentials.agent_token if self._at_agents_doors() else credentials.bearer
        return shown(self._request)

    def _at_agents_doors(self) -> bool:
        return bool(self._request.scope["path"].startswith(_AGENTS_DOORS))


def _has_body(request: HTTPConnection) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


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
