"""Chromium's debugging pipe: one owner, several users, no listening port.

Messages are JSON, each ended by a zero byte. Ids are ours; a second user (see `bridge`) speaks through its own browser
session, so neither sees the other's state.
"""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable
from typing import Any

from agent_image.agent.journal import log

Message = dict[str, Any]
Handler = Callable[[Message], None]

_MAX_MESSAGE_BYTES = 256 << 20  # a full-page picture of a long page; Chromium is the only sender
_HEAD_BYTES = 64
_NUMBER = re.compile(rb'\{"id":(\d+),')


class CdpError(Exception):
    """Chromium answered with an error; the message is Chromium's."""


class AnswerTooLarge(CdpError):
    """The answer is larger than we take; it was read and thrown away."""


class PipeClosed(CdpError):
    """The browser, or the page that was asked, is gone."""


class CdpPipe:
    """Calls and events over the pipe."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[int, tuple[str | None, Handler]] = {}
        self._sessions: dict[str, Handler] = {}
        self._domains: dict[str, Handler] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._input: asyncio.ReadTransport | None = None
        self._pump: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    async def open(self, read_end: int, write_end: int) -> None:
        """Take both descriptors over and start reading; after `close` again, for another browser."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_MAX_MESSAGE_BYTES)
        self._input, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
        )
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(write_end, "wb")
        )
        self.closed = asyncio.Event()
        self._writer = asyncio.StreamWriter(transport, protocol, None, loop)
        self._pump = asyncio.create_task(self._read(reader, self._writer, self.closed), name="cdp.pipe")

    async def close(self) -> None:
        """Let go of a browser that is gone: what still waits for an answer of it fails. Safe to call twice."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        if self._input is not None:
            self._input.close()
        if self._writer is not None:
            self._writer.close()
        self.closed.set()
        self._fail(None)
        self._sessions.clear()

    def on_root(self, domain: str, handler: Handler) -> None:
        """`handler` gets every event of `domain` that belongs to no session."""
        self._domains[domain] = handler

    def route(self, session: str, handler: Handler) -> None:
        """`handler` gets every event of `session` from now on."""
        self._sessions[session] = handler

    def unroute(self, session: str) -> None:
        """Forget `session` and fail what still waits for an answer of it."""
        self._sessions.pop(session, None)
        self._fail(session)

    async def call(
        self, method: str, params: Message | None = None, *, session: str | None = None, timeout: float = 20
    ) -> Message:
        """The result of one command; raises `CdpError`, `PipeClosed` or `TimeoutError`."""
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def deliver(message: Message) -> None:
            if answer.done():
                return
            if "error" in message:
                gone = message["error"].get("code") == -32001  # "Session with given id not found"
                kind = PipeClosed if gone or message["error"].get("closed") else CdpError
                kind = AnswerTooLarge if message["error"].get("tooLarge") else kind
                answer.set_exception(kind(f"{method}: {message['error'].get('message', '')}"))
            else:
                answer.set_result(message.get("result", {}))

        number = self.send({"method": method, "params": params or {}}, session, deliver)
        try:
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._waiting.pop(number, None)

    def send(self, message: Message, session: str | None, deliver: Handler) -> int:
        """Send without waiting; `deliver` gets the answer once. Returns the number used on the pipe."""
        self._number += 1
        number = self._number
        outgoing = {**message, "id": number}
        if session is not None:
            outgoing["sessionId"] = session
        if self._writer is None or self.closed.is_set():
            deliver({"error": {"message": "the browser is not there", "closed": True}})
            return number
        self._waiting[number] = (session, deliver)
        self._writer.write(json.dumps(outgoing).encode() + b"\0")
        return number

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, closed: asyncio.Event) -> None:
        try:
            while True:
                message = await self._next(reader)
                if message is not None:
                    self._dispatch(json.loads(message))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the browser is gone; its exit is watched elsewhere
        finally:
            closed.set()
            self._fail(None)
            with contextlib.suppress(OSError):
                writer.close()

    async def _next(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next message; None for one that is too large. The pipe must stay open: without it Chromium ends."""
        head = b""
        while True:
            try:
                rest = await reader.readuntil(b"\0")
            except asyncio.LimitOverrunError as error:
                part = await reader.readexactly(error.consumed)
                head = head or part[:_HEAD_BYTES]
                continue
            if not head:
                return rest[:-1]
            self._too_large(head)
            return None

    def _too_large(self, head: bytes) -> None:
        log.error("cdp.message_too_large", most=_MAX_MESSAGE_BYTES)
        # Chromium begins an answer with its number; without one it is an event.
        if found := _NUMBER.match(head):
            _, deliver = self._waiting.pop(int(found[1]), (None, None))
            if deliver is not None:
                deliver({"error": {"message": f"the answer is over {_MAX_MESSAGE_BYTES >> 20} MiB", "tooLarge": True}})

    def _dispatch(self, message: Message) -> None:
        if "id" in message:
            _, deliver = self._waiting.pop(message["id"], (None, None))
            if deliver is not None:
                deliver(message)
            return
        session = message.get("sessionId")
        domain = message.get("method", "").partition(".")[0]
        handler = self._domains.get(domain) if session is None else self._sessions.get(session)
        if handler is None:
            return  # of a session that was just detached, or nothing that anybody here asked for
        try:
            handler(message)
        except Exception as error:  # owner: the pipe must go on reading, whatever one handler does with one event
            log.error("cdp.handler_failed", method=message.get("method"), error=repr(error))

    def _fail(self, session: str | None) -> None:
        """Answer what waits for `session`, or everything, as gone."""
        for number, (owner, deliver) in list(self._waiting.items()):
            if session is None or owner == session:
                del self._waiting[number]
                deliver({"error": {"message": "the browser or its page is gone", "closed": True}})
