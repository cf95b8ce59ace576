"""The agent's line to Berth: one outbound WebSocket, resumed by number after every break."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Literal, assert_never

import aiohttp
from pydantic import ValidationError

from agent_image.agent.config import Config
from agent_image.agent.executor import Executor, Outcome
from agent_image.agent.journal import log
from agent_image.agent.outbox import Outbox
from agent_image.agent.refusals import TokenRefused
from core.domain.wire import (
    DOWN,
    MAX_MESSAGE_BYTES,
    Ack,
    Cancel,
    Execute,
    GracefulShutdown,
    Health,
    to_json,
)

CLOSE_REFUSED = 4401
CLOSE_REPLACED = 4409
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 10.0
_REPLACED_WAIT = 5.0
# A refused token is asked again for about 20 s (a deployment may be between two databases), then it is believed.
_REFUSED_WAITS = (1.0, 3.0, 6.0, 10.0)
_HANDSHAKE_SECONDS = 10
_PING_SECONDS = 15
_COMMANDS = 64

State = Literal["connecting", "open", "refused"]


class _Replaced(Exception):
    """A newer socket of this agent has taken our place."""


class Channel:
    """Keeps the line up for as long as the agent lives. `shutdown` and `refused` are told once each.

    `http` heeds Berth's refusals (`refusals.heed_refusal`); any other 401 or 403 is a break, tried again for ever.
    """

    def __init__(
        self,
        config: Config,
        http: aiohttp.ClientSession,
        executor: Executor,
        outbox: Outbox,
        health: Callable[[], Awaitable[Health]],
        shutdown: Callable[[str, float], None],
        refused: Callable[[], None],
    ) -> None:
        self._config = config
        self._http = http
        self._executor = executor
        self._outbox = outbox
        self._health = health
        self._shutdown = shutdown
        self._refused = refused
        self._commands: set[asyncio.Task[None]] = set()
        self._answering: set[str] = set()
        self._resumed = 0
        self._opened = asyncio.Event()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self.state: State = "connecting"
        backend = config.backend_url
        self._url = ("ws" + backend.removeprefix("http") if backend.startswith("http") else backend) + "/ws/agent"

    def tell(self, kind: str, **fields: Any) -> None:
        """Queue one message; it is sent, and sent again, until Berth has it."""
        body = {"type": kind, "agentId": self._config.agent_id, **fields}
        self._outbox.add(body, len(to_json(body).encode()) + 100)

    def status(self, status: str, detail: str = "", **data: Any) -> None:
        self.tell("agent_status", status=status, detail=detail[:2000], data=data)

    async def run(self) -> None:
        """Connect, serve, reconnect; returns when refused for good, else runs until cancelled."""
        wait, refusals = _FIRST_WAIT, 0
        while True:
            began = time.monotonic()
            self._opened.clear()
            try:
                await self._connection()
                pause = wait
            except TokenRefused:
                self.state = "refused"
                if refusals == len(_REFUSED_WAITS):
                    log.error("channel.token_refused")
                    self._refused()
                    return
                pause, refusals = _REFUSED_WAITS[refusals], refusals + 1
                log.warning("channel.refused", again_in=pause)
                await asyncio.sleep(pause)
                continue
            except _Replaced:
                pause = _REPLACED_WAIT
                log.warning("channel.replaced", again_in=pause)
                self.state = "connecting"
                await asyncio.sleep(pause)
                continue
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("channel.broken", error=f"{type(error).__name__}: {error}"[:300])
                pause = wait
            self.state = "connecting"
            if self._opened.is_set():
                refusals = 0
                wait = _FIRST_WAIT if time.monotonic() - began > 1 else wait
                pause = wait
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, not a secret
            wait = min(wait * 2, _LONGEST_WAIT)

    async def farewell(self) -> None:
        """Say once more how we are, before we go: it is the last word on what was used."""
        if self._socket is None:
            return
        try:
            await self._say_health(self._socket)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("channel.no_farewell", error=repr(error)[:300])

    async def drained(self, seconds: float) -> bool:
        """True when everything told has been acknowledged within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while not self._outbox.empty():
                    await self._outbox.changed()
        except TimeoutError:
            return False
        return True

    async def _connection(self) -> None:
        headers = {"X-Agent-Id": self._config.agent_id}
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            socket = await self._http.ws_connect(
                self._url, headers=headers, max_msg_size=MAX_MESSAGE_BYTES, heartbeat=_PING_SECONDS, compress=0
            )
        try:
            await self._greet(socket)
            self.state = "open"
            self._opened.set()
            log.info("channel.open")
            await self._serve(socket)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await socket.close()
        self._judge(socket.close_code)

    def _judge(self, code: int | None) -> None:
        if code == CLOSE_REFUSED:
            raise TokenRefused
        if code == CLOSE_REPLACED:
            raise _Replaced
        log.info("channel.closed", code=code)

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Say who we are, learn what Berth already has."""
        await self._send(
            socket,
            {"type": "agent_online", "agentId": self._config.agent_id, "attempt": self._config.attempt,
             "version": "1", "seq": self._outbox.next_seq, "at": datetime.now(UTC).isoformat()},
        )  # fmt: skip
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            while True:
                message = await socket.receive()
                if message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING}:
                    self._judge(socket.close_code)
                    raise aiohttp.ClientError(f"closed with {socket.close_code} before the first acknowledgement")
                if message.type is aiohttp.WSMsgType.ERROR:
                    raise aiohttp.ClientError("the socket broke before the first acknowledgement")
                heard = self._parse(message.data)
                if isinstance(heard, Ack):
                    self._outbox.resume(heard.seq)
                    self._resumed = heard.seq
                    return
                if heard is not None:
                    self._hear(heard)

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        sender = asyncio.create_task(self._owned(self._talk(socket), socket), name="channel.sender")
        beats = asyncio.create_task(self._owned(self._beat(socket), socket), name="channel.heartbeat")
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    heard = self._parse(message.data)
                    if heard is not None:
                        self._hear(heard)
        finally:
            self._socket = None
            for task in (sender, beats):
                task.cancel()
            await asyncio.gather(sender, beats, return_exceptions=True)

    async def _owned(self, work: Coroutine[Any, Any, None], socket: aiohttp.ClientWebSocketResponse) -> None:
        """Half a channel is none: when either side of the talking fails, the socket goes and a new one comes."""
        try:
            await work
        except Exception as error:  # owner: `run`, which reconnects once the socket is closed
            log.warning("channel.sender_failed", error=repr(error)[:300])
            await socket.close(code=1001)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        sent = self._resumed
        while True:
            for seq, body in self._outbox.after(sent):
                await self._send(socket, body)
                sent = seq
            if self._outbox.next_seq == sent + 1 or not any(True for _ in self._outbox.after(sent)):
                await self._outbox.changed()

    async def _beat(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await self._say_health(socket)
            await asyncio.sleep(self._config.heartbeat_seconds)

    async def _say_health(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        health = await self._health()
        await self._send(
            socket,
            {"type": "heartbeat", "agentId": self._config.agent_id, "seq": self._outbox.next_seq,
             "at": datetime.now(UTC).isoformat(), "health": health.model_dump(by_alias=True)},
        )  # fmt: skip

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, body: dict[str, Any]) -> None:
        async with asyncio.timeout(_PING_SECONDS):
            await socket.send_str(to_json(body))

    def _parse(self, data: Any) -> Execute | Cancel | GracefulShutdown | Ack | None:
        try:
            return DOWN.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            log.warning("channel.not_understood", kind=first["type"], size=len(data) if data else 0)
            return None

    def _hear(self, message: Execute | Cancel | GracefulShutdown | Ack) -> None:
        match message:
            case Ack(seq=seq):
                self._outbox.acknowledge(seq)
            case Execute():
                self._begin(message)
            case Cancel(command_id=command_id):
                self._executor.cancel(command_id)
            case GracefulShutdown(reason=reason, within_seconds=seconds):
                self._shutdown(reason, seconds)
            case _:
                assert_never(message)

    def _begin(self, message: Execute) -> None:
        if message.command_id in self._answering or self._outbox.holds_result(message.command_id):
            return  # asked again after a break: the answer is on its way already
        if len(self._commands) >= _COMMANDS:
            self.tell("command_result", commandId=message.command_id, fault="busy", detail="too many commands at once")
            return
        self._answering.add(message.command_id)
        outcome = self._executor.begin(message.command_id, message.command, message.parameters, message.timeout_seconds)
        task = asyncio.create_task(self._answer(message, outcome), name=f"channel.{message.command_id}")
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _answer(self, message: Execute, running: Awaitable[Outcome]) -> None:
        try:
            outcome = await running
        finally:
            self._answering.discard(message.command_id)
        end = {"result": outcome.result} if outcome.fault is None else {"fault": outcome.fault}
        self.tell("command_result", commandId=message.command_id, detail=outcome.detail, **end)
