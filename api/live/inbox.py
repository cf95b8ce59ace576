"""What comes in on an agent's socket, weighed: size, rate, sense, and whose it is."""

import asyncio
import json
from typing import Any

import structlog
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.live.limits import Close, Closing, TokenBucket
from api.live.ports import now
from core.domain.wire import (
    MAX_MESSAGE_BYTES,
    UP,
    AgentOnline,
    AgentStatus,
    CommandFault,
    CommandResult,
    Heartbeat,
    Ready,
    Wire,
    to_json,
)

log = structlog.get_logger()

_GARBAGE_BUDGET = 10
_RATE, _BURST = 100.0, 200.0
# Smaller messages are counted but not weighed: a heartbeat does not wait for what large ones have used up.
_SMALL_BYTES = 4096
# Beyond it an integer is no longer the same number on both sides of JSON.
_MAX_SEQ = 1 << 53
# What an agent sends again until it is acknowledged.
_NUMBERED = frozenset({"ready", "agent_status", "command_result"})
_KNOWN = _NUMBERED | {"agent_online", "heartbeat"}

_Message = AgentOnline | Ready | AgentStatus | CommandResult | Heartbeat


class _Envelope(Wire):
    """The little that is needed to answer a message without its sense."""

    type: str
    agent_id: str = ""
    seq: int = 0
    command_id: str = ""


class Inbox:
    """Messages of one agent. A little garbage is overlooked, also types of a newer agent; the rest is `Closing`.

    `volume` holds the bytes that the agent may bring: beyond them it is read more slowly, and loses nothing.
    """

    def __init__(self, socket: WebSocket, agent_id: str, volume: TokenBucket) -> None:
        self._socket, self._agent_id, self._volume = socket, agent_id, volume
        self._bucket = TokenBucket(_RATE, _BURST)
        self._garbage_left = _GARBAGE_BUDGET

    async def next(self) -> _Message:
        """The next message that makes sense and is this agent's own. Raises `Closing`, `WebSocketDisconnect`."""
        while True:
            raw = await self._receive()
            if not self._bucket.take():
                raise Closing(Close.FLOOD, "too many messages")
            if len(raw) > MAX_MESSAGE_BYTES:
                raise Closing(Close.TOO_BIG, "message too big")
            if len(raw) > _SMALL_BYTES and (wait := self._volume.owe(len(raw))) > 0:
                await asyncio.sleep(wait)
            message = self._understood(raw)
            if message is None:
                continue
            if message.seq > _MAX_SEQ:
                self.spoil("seq is too large")
                continue
            if message.agent_id != self._agent_id:
                raise Closing(Close.NOT_YOURS, "the token is another agent's")
            return message

    def spoil(self, what: str) -> None:
        """Count something senseless. Raises `Closing` when it is too much."""
        self._garbage_left -= 1
        log.warning("channel.garbage", agent_id=self._agent_id, what=what)
        if self._garbage_left < 0:
            raise Closing(Close.GARBAGE, what)

    def _understood(self, raw: bytes) -> _Message | None:
        try:
            return UP.validate_json(raw)
        except ValidationError as error:
            if (kind := _unknown_type(error)) is not None:
                self._overlook(kind, raw)
                return None
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            self.spoil("not a message")
            return None
        try:
            return UP.validate_json(to_json(body))
        except ValidationError as error:
            if (kind := _unknown_type(error)) is not None:
                self._overlook(kind, raw)
                return None
        except (ValueError, RecursionError):
            pass
        return self._stand_in(body)

    def _overlook(self, kind: str, raw: bytes) -> None:
        """A type of a newer agent, unless it is so large that it looks like harm."""
        if len(raw) > _SMALL_BYTES:
            self.spoil("a large message of an unknown type")
        log.info("channel.unknown_type", agent_id=self._agent_id, type=kind[:64])

    def _stand_in(self, body: Any) -> AgentStatus | CommandResult | None:
        """What stands for a message without sense, None when nothing has to.

        A numbered one must have an effect all the same: the agent would send it again after every break, and a few of
        them would end each of its sockets.
        """
        try:
            envelope = _Envelope.model_validate(body)
        except ValueError:
            self.spoil("not a message")
            return None
        self.spoil("malformed")
        if envelope.type not in _NUMBERED or envelope.seq < 1 or envelope.agent_id != self._agent_id:
            return None
        if envelope.type == "command_result" and envelope.command_id:
            return CommandResult(
                agent_id=self._agent_id,
                seq=envelope.seq,
                at=now(),
                command_id=envelope.command_id,
                fault=CommandFault.BROWSER_FAILED,
                detail="what the agent answered cannot be read",
            )
        return AgentStatus(agent_id=self._agent_id, seq=envelope.seq, at=now(), status="malformed")

    async def _receive(self) -> bytes:
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        text: str | None = event.get("text")
        return event.get("bytes") or b"" if text is None else text.encode()


def _unknown_type(error: ValidationError) -> str | None:
    """The type for which a message was not understood: to find it out, nothing has to be read again."""
    if error.error_count() != 1:
        return None
    (only,) = error.errors(include_url=False, include_input=False)
    return str(only["ctx"]["tag"]) if only["type"] == "union_tag_invalid" else None
