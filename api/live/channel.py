"""One agent's socket: its messages become effects, its commands are sent, its silence is noticed."""

import asyncio
import time

import structlog
from pydantic import BaseModel
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.live.inbox import Inbox
from api.live.intake import Intake
from api.live.limits import HEARTBEAT_APART_SECONDS, SEND_SECONDS, Close, Closing, TokenBucket
from api.live.ports import DATABASE_AWAY, now
from api.live.together import together
from api.live.whole import whole
from core.db.engine import Db
from core.db.notify import Listener, Subscription, Wake
from core.db.repositories import channels, commands
from core.db.repositories.agents import AgentView
from core.db.repositories.channels import Superseded
from core.db.repositories.commands import CommandView
from core.domain.wire import (
    Ack,
    AgentOnline,
    AgentStatus,
    Cancel,
    CommandResult,
    Execute,
    GracefulShutdown,
    Heartbeat,
    Ready,
)

log = structlog.get_logger()

_ONLINE_SECONDS = 10.0
_CLAIM_LIMIT = 32
# A wake-up wakes the sender at once; this is how soon it notices what no wake-up told, such as a dead token.
_LOOK_SECONDS = 30.0


class AgentSocket:
    """A socket whose token was accepted; `serve` returns when it is closed."""

    def __init__(
        self,
        socket: WebSocket,
        who: AgentView,
        token_hash: str,
        *,
        db: Db,
        listener: Listener,
        intake: Intake,
        replica: str,
        stale_seconds: float,
        volume: TokenBucket,
    ) -> None:
        self._socket, self._who, self._token_hash, self._replica = socket, who, token_hash, replica
        self._db, self._listener, self._intake = db, listener, intake
        self._stale_seconds = stale_seconds
        self._inbox = Inbox(socket, who.agent_id, volume)
        self._epoch = 0
        self._beat_at = time.monotonic()
        self._beat_stored_at, self._beat_status = 0.0, ""
        self._cancelled: set[str] = set()

    async def serve(self, displaced: asyncio.Event) -> None:
        """Runs until the agent leaves, a newer socket replaces this one, or a rule is broken.

        `displaced` is set when too many newer ones came, whether or not they speak for the agent yet.
        """
        structlog.contextvars.bind_contextvars(agent_id=self._who.agent_id, attempt=self._who.attempt)
        closing = Closing(Close.NORMAL, "")
        try:
            await together(self._converse(), _until_displaced(displaced))
        except WebSocketDisconnect:
            return
        except Closing as reason:
            closing = reason
        except Superseded as error:
            closing = (
                Closing(Close.REPLACED, "a newer socket speaks for this agent")
                if error.replaced
                else Closing(Close.REFUSED, "this attempt is over")
            )
        except DATABASE_AWAY as error:
            log.warning("channel.database_away", agent_id=self._who.agent_id, error=type(error).__name__)
            closing = Closing(Close.TRY_AGAIN, "try again")
        finally:
            await self._left()
        log.info("channel.closed", agent_id=self._who.agent_id, epoch=self._epoch, code=int(closing.code))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.close(closing.code, closing.reason)
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            pass  # gone already

    async def _converse(self) -> None:
        who = self._who
        with self._listener.subscribe((Wake.COMMANDS, who.agent_id), (Wake.CHANNEL, who.agent_id)) as news:
            try:
                async with asyncio.timeout(_ONLINE_SECONDS):
                    first = await self._inbox.next()
            except TimeoutError:
                raise Closing(Close.GARBAGE, "agent_online must come first") from None
            if not isinstance(first, AgentOnline):
                raise Closing(Close.GARBAGE, "agent_online must come first")
            if first.attempt != who.attempt:
                raise Closing(Close.REFUSED, "the token is of another attempt")
            opened = await self._intake.online(who, self._token_hash, self._replica, first.seq)
            self._epoch = opened.epoch
            log.info("channel.open", agent_id=who.agent_id, attempt=who.attempt, epoch=opened.epoch)
            await self._send(Ack(seq=opened.last_seq))
            self._beat_at = time.monotonic()
            await together(self._read(), self._dispatch(news), self._watch())

    async def _left(self) -> None:
        if not self._epoch:
            return
        try:
            async with asyncio.timeout(5):
                await self._intake.offline(self._who, self._epoch)
        except DATABASE_AWAY as error:
            # Only a hint is lost: nothing that decides over the agent reads it.
            log.warning("channel.not_marked", agent_id=self._who.agent_id, error=type(error).__name__)

    # ---- up ----

    async def _read(self) -> None:
        while True:
            match await self._inbox.next():
                case Heartbeat() as beat:
                    await self._heard(beat)
                case Ready() | AgentStatus() | CommandResult() as message:
                    await self._send(Ack(seq=await whole(self._intake.take(self._who, self._epoch, message))))
                case AgentOnline():
                    self._inbox.spoil("agent_online came twice")

    async def _heard(self, beat: Heartbeat) -> None:
        self._beat_at = time.monotonic()
        status = beat.health.status
        if status == self._beat_status and self._beat_at - self._beat_stored_at < HEARTBEAT_APART_SECONDS:
            return
        self._beat_stored_at, self._beat_status = self._beat_at, status
        await whole(self._intake.heartbeat(self._who, self._epoch, beat.health))

    async def _watch(self) -> None:
        while True:
            silent = time.monotonic() - self._beat_at
            if silent >= self._stale_seconds:
                await whole(self._intake.missed(self._who, self._epoch, silent))
                await asyncio.sleep(self._stale_seconds)
            else:
                await asyncio.sleep(self._stale_seconds - silent)

    # ---- down ----

    async def _dispatch(self, news: Subscription) -> None:
        woken = True
        while True:
            due, unwanted = await whole(self._due(with_cancels=woken))
            for command in due:
                await self._order(command)
            for command_id in unwanted:
                if command_id not in self._cancelled:
                    self._cancelled.add(command_id)
                    await self._send(Cancel(command_id=command_id))
            if woken:
                self._cancelled.intersection_update(unwanted)
            woken = len(due) == _CLAIM_LIMIT or await news.wait(_LOOK_SECONDS)

    async def _due(self, *, with_cancels: bool) -> tuple[list[CommandView], list[str]]:
        """What this socket has to send now, taken in its name, and the ids of commands to give up."""
        who = self._who
        async with self._db.transaction() as session:
            await channels.held_by(session, who, self._epoch)
            due = await commands.claim(session, who.agent_id, who.attempt, self._epoch, now(), _CLAIM_LIMIT)
            unwanted = await commands.to_cancel(session, who.agent_id, who.attempt) if with_cancels else []
        return due, unwanted

    async def _order(self, command: CommandView) -> None:
        if command.kind == commands.EXECUTE:
            await self._send(execute_message(command))
            return
        # What is left of its time: the order may have waited for this socket.
        left = max((command.deadline_at - now()).total_seconds(), 0)
        within = min(float(command.parameters["withinSeconds"]), left)
        await self._send(GracefulShutdown(reason=str(command.parameters["reason"]), within_seconds=within))
        await whole(self._told(command))

    async def _told(self, command: CommandView) -> None:
        async with self._db.transaction() as session:
            await commands.told(session, command.agent_id, command.command_id, now())

    async def _send(self, message: BaseModel) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_text(message.model_dump_json(by_alias=True))
        except TimeoutError:
            raise Closing(Close.SLOW, "the agent does not read") from None


async def _until_displaced(displaced: asyncio.Event) -> None:
    await displaced.wait()
    raise Closing(Close.REPLACED, "newer sockets came for this agent")


def execute_message(command: CommandView) -> Execute:
    """`command` as the agent gets it, with the time it has left."""
    left = (command.deadline_at - now()).total_seconds()
    return Execute(
        command_id=command.command_id,
        command=command.name,
        parameters=command.parameters,
        timeout_seconds=min(max(left, 1.0), 3600.0),
    )
