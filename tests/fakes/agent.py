"""An agent that speaks the channel's protocol and nothing else, with faults to order."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from core.domain.wire import (
    DOWN,
    Ack,
    AgentOnline,
    AgentStatus,
    Cancel,
    CommandFault,
    CommandResult,
    Execute,
    GracefulShutdown,
    Health,
    Heartbeat,
    Ready,
    UpMessage,
)

WAIT = 10.0
Answer = dict[str, Any] | CommandFault | None


async def echo(order: Execute) -> Answer:
    return {"did": order.command, "with": order.parameters}


class FakeAgent:
    """Counts its messages over all its sockets, keeps what is not acknowledged, and runs a commandId once."""

    def __init__(
        self,
        base_url: str,
        agent_id: str,
        token: str,
        *,
        attempt: int = 1,
        execute: Callable[[Execute], Awaitable[Answer]] = echo,
    ) -> None:
        self.url = base_url.replace("http", "ws", 1) + "/ws/agent"
        self.agent_id, self.token, self.attempt, self.execute = agent_id, token, attempt, execute
        self.next_seq = 1
        self.unacknowledged: list[UpMessage] = []
        self.acknowledged = -1
        self.runs: list[str] = []
        self.cancels: list[str] = []
        self.shutdowns: list[GracefulShutdown] = []
        self.resumed_from: list[int] = []
        # Faults: overhears acknowledgements; never gets orders.
        self.mute = False
        self.deaf = False
        self.closed_with: int | None = None
        self._results: dict[str, CommandResult] = {}
        self._socket: ClientConnection | None = None
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def online(self) -> AsyncIterator[Self]:
        await self.connect()
        try:
            yield self
        finally:
            await self.close()

    async def connect(self) -> None:
        """Open a socket and resume: returns when the first acknowledgement came and the rest was sent again."""
        self.closed_with = None
        self._socket = await connect(
            self.url, additional_headers={"Authorization": f"Bearer {self.token}"}, open_timeout=WAIT, proxy=None
        )
        online = AgentOnline(agent_id=self.agent_id, seq=self.next_seq, at=datetime.now(UTC), attempt=self.attempt)
        await self._socket.send(online.model_dump_json(by_alias=True))
        first = DOWN.validate_json(await asyncio.wait_for(self._socket.recv(), WAIT))
        assert isinstance(first, Ack)
        self.resumed_from.append(first.seq)
        self._forget(first.seq)
        for message in self.unacknowledged:
            await self._socket.send(message.model_dump_json(by_alias=True))
        self._spawn(self._listen(self._socket))

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cut(self) -> None:
        """Break the socket without a word."""
        assert self._socket is not None
        self._socket.transport.abort()
        await self._socket.wait_closed()

    async def ready(self) -> None:
        await self.say(Ready(**self._head(), seconds=0.5))

    async def status(self, status: str, detail: str = "", **data: Any) -> None:
        await self.say(AgentStatus(**self._head(), status=status, detail=detail, data=data))

    async def beat(self, status: str = "healthy", detail: str = "") -> None:
        health = Health.model_validate(
            {
                "status": status, "uptime": 1, "memory": 1 << 20, "browserActive": True, "channel": "open",
                "detail": detail,
            }
        )  # fmt: skip
        message = Heartbeat(agent_id=self.agent_id, seq=self.next_seq, at=datetime.now(UTC), health=health)
        await self.raw(message.model_dump_json(by_alias=True))

    async def say(self, message: UpMessage) -> None:
        """Send, and keep until acknowledged; without a socket it is only kept."""
        self.next_seq = message.seq + 1
        self.unacknowledged.append(message)
        with contextlib.suppress(ConnectionClosed):
            await self.raw(message.model_dump_json(by_alias=True))

    async def raw(self, text: str | bytes) -> None:
        assert self._socket is not None
        await self._socket.send(text)

    async def until(self, condition: Callable[[Self], bool]) -> None:
        """Wait for something this agent heard."""
        async with asyncio.timeout(WAIT), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def heard_all(self) -> None:
        await self.until(lambda agent: not agent.unacknowledged)

    def _head(self) -> dict[str, Any]:
        return {"agent_id": self.agent_id, "seq": self.next_seq, "at": datetime.now(UTC)}

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                await self._heard(json.loads(text))
        except ConnectionClosed:
            pass
        async with self._changed:
            self.closed_with = socket.close_code
            self._changed.notify_all()

    async def _heard(self, body: Any) -> None:
        match DOWN.validate_python(body):
            case Ack(seq=seq):
                if not self.mute:
                    self._forget(seq)
            case Execute() if self.deaf:
                pass
            case Execute() as order:
                self._spawn(self._run(order))
            case Cancel(command_id=command_id):
                self.cancels.append(command_id)
                if command_id not in self._results:
                    await self._answer(command_id, CommandFault.CANCELLED)
            case GracefulShutdown() as order:
                self.shutdowns.append(order)
        async with self._changed:
            self._changed.notify_all()

    def _forget(self, seq: int) -> None:
        self.acknowledged = seq
        self.unacknowledged = [message for message in self.unacknowledged if message.seq > seq]

    async def _run(self, order: Execute) -> None:
        if order.command_id in self.runs:
            # Finished ones are still in the buffer when their result was not acknowledged.
            return
        self.runs.append(order.command_id)
        async with self._changed:
            self._changed.notify_all()
        answer = await self.execute(order)
        if answer is not None:
            await self._answer(order.command_id, answer)

    async def _answer(self, command_id: str, answer: dict[str, Any] | CommandFault) -> None:
        ended = {"fault": answer} if isinstance(answer, CommandFault) else {"result": answer}
        message = CommandResult.model_validate({**self._head(), "command_id": command_id, **ended})
        self._results[command_id] = message
        await self.say(message)
