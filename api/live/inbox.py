"""What comes in on an agent's socket, weighed: size, rate, sense, and whose it is."""

import structlog
from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.live.limits import Close, Closing, TokenBucket
from core.domain.wire import (
    MAX_MESSAGE_BYTES,
    UP,
    AgentOnline,
    AgentStatus,
    CommandResult,
    Heartbeat,
    Ready,
)

log = structlog.get_logger()

_GARBAGE_BUDGET = 10
_RATE, _BURST = 100.0, 200.0
# Beyond it an integer is no longer the same number on both sides of JSON.
_MAX_SEQ = 1 << 53
_KNOWN = frozenset({"agent_online", "ready", "agent_status", "command_result", "heartbeat"})


class _Envelope(BaseModel):
    """The little that every message has, to tell an unknown type from garbage."""

    type: str


class Inbox:
    """Messages of one agent. A little garbage is overlooked, also types of a newer agent; the rest is `Closing`."""

    def __init__(self, socket: WebSocket, agent_id: str) -> None:
        self._socket, self._agent_id = socket, agent_id
        self._bucket = TokenBucket(_RATE, _BURST)
        self._garbage_left = _GARBAGE_BUDGET

    async def next(self) -> AgentOnline | Ready | AgentStatus | CommandResult | Heartbeat:
        """The next message that makes sense and is this agent's own. Raises `Closing`, `WebSocketDisconnect`."""
        while True:
            raw = await self._receive()
            if not self._bucket.take():
                raise Closing(Close.FLOOD, "too many messages")
            if len(raw) > MAX_MESSAGE_BYTES:
                raise Closing(Close.TOO_BIG, "message too big")
            try:
                message = UP.validate_json(raw)
            except ValidationError:
                self._unknown(raw)
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

    def _unknown(self, raw: bytes) -> None:
        try:
            envelope = _Envelope.model_validate_json(raw)
        except ValidationError:
            return self.spoil("not a message")
        if envelope.type in _KNOWN:
            return self.spoil("malformed")
        log.info("channel.unknown_type", agent_id=self._agent_id, type=envelope.type[:64])

    async def _receive(self) -> bytes:
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        text: str | None = event.get("text")
        return event.get("bytes") or b"" if text is None else text.encode()
