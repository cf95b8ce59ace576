"""A user's commands: stored, sent by whoever holds the agent's socket, and waited for on the row."""

import asyncio
import time
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import httpx2
import structlog
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession

from api.live.channel import execute_message
from api.live.intake import conclude
from api.live.ports import DATABASE_AWAY, Reacher, now
from api.live.posts import post
from core.db.engine import Db
from core.db.notify import Listener, Subscription, Wake, result_key
from core.db.repositories import agents, channels, commands, projects
from core.db.repositories.agents import AgentView
from core.db.repositories.commands import Asked, CommandState, CommandView
from core.domain.lifecycle import AgentState
from core.domain.wire import CommandName, CommandResult
from core.errors import Conflict, NotFound, RuntimeFault, TimedOut, Unavailable

log = structlog.get_logger()

# How long the agent may work on, whether or not somebody still waits.
_RUN_SECONDS = {CommandName.RUN_TASK: 3600.0}
_OTHER_RUN_SECONDS = 300.0
_UNSENT_SECONDS = 2.0
_LOOK_SECONDS = 5.0
_SIMULATED = "memory"
# Commands work on a living agent; while it drains it finishes what it has but takes nothing new.
_ANSWERS = frozenset({AgentState.RUNNING, AgentState.DRAINING})


class Call(BaseModel):
    """One user's wish. `seconds` is how long the user waits, `command_id` makes it happen once."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    user_id: str
    agent_id: str
    command_id: str
    name: CommandName
    parameters: dict[str, Any]
    seconds: float


class Calls:
    """Runs commands for users; any replica can, whoever holds the socket."""

    def __init__(self, db: Db, listener: Listener, reach: Reacher) -> None:
        self._db, self._listener, self._reach = db, listener, reach
        self._posts: set[asyncio.Task[None]] = set()
        self._waiting: set[Subscription] = set()
        self._leaving = False

    def leave(self) -> None:
        """Let nobody wait any longer: this process is about to end, and would take their answers with it."""
        self._leaving = True
        for news in self._waiting:
            news.nudge()

    async def execute(self, call: Call, departed: Coroutine[Any, Any, None]) -> CommandView:
        """Run the command, or find it when its id is known, and return it ended; open still, when the caller is gone.

        `departed` returns when that is so. What was asked for goes on all the same, and is there for the same id.

        Raises `NotFound`, `Conflict` (`agent_not_ready`; `order_refused` for a simulated agent), `KeyReused`, `Busy`;
        after the seconds `TimedOut`, and when the process leaves `Unavailable` (`server_leaving`): the command goes on.
        """
        until = time.monotonic() + call.seconds
        keys = (
            (Wake.RESULTS, result_key(call.agent_id, call.command_id)),
            (Wake.CHANNEL, call.agent_id),
            (Wake.EVENTS, call.user_id),
        )
        with self._listener.subscribe(*keys) as news:
            gone = asyncio.create_task(departed, name=f"caller-{call.agent_id}")
            gone.add_done_callback(lambda _: news.nudge())
            self._waiting.add(news)
            try:
                view, command = await self._submit(call)
                return await self._ended(view, command, news, until, gone)
            finally:
                self._waiting.discard(news)
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)

    async def close(self) -> None:
        under_way = list(self._posts)
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _submit(self, call: Call) -> tuple[AgentView, CommandView]:
        async with self._db.transaction() as session:
            # The lock keeps the agent from ending between this look and the command's row.
            row = await agents.lock(session, call.agent_id)
            if row is None or row.user_id != call.user_id:
                raise NotFound("you have no such agent")
            view, at = agents.view(row), now()
            if await commands.get(session, call.agent_id, call.command_id) is None:
                # One who was put out of the project may be told of an earlier command, but drives no more.
                await projects.require_member(session, view.project_id, call.user_id)
                if view.state is not AgentState.RUNNING:
                    raise not_ready(view)
                if view.runtime == _SIMULATED and not await channels.was_open(session, view.agent_id, view.attempt):
                    # Others may be on their way to Berth just now; these never come.
                    raise Conflict("a simulated agent has no browser, so it takes no commands", code="order_refused")
                await agents.touch(session, call.agent_id, at)
            runs = timedelta(seconds=max(call.seconds, _RUN_SECONDS.get(call.name, _OTHER_RUN_SECONDS)))
            asked = Asked(
                agent_id=call.agent_id,
                attempt=view.attempt,
                command_id=call.command_id,
                name=call.name.value,
                parameters=call.parameters,
                deadline_at=at + runs,
            )
            return view, await commands.submit(session, asked, at)

    async def _ended(
        self, view: AgentView, command: CommandView, news: Subscription, until: float, gone: asyncio.Task[None]
    ) -> CommandView:
        unsent_until = time.monotonic() + _UNSENT_SECONDS
        posted = False
        while command.open:
            # Not before somebody has it: where no socket takes it, nobody else would send it.
            if gone.done() and (posted or command.state is not CommandState.PENDING):
                gone.result()
                return command
            if self._leaving:
                raise Unavailable(
                    "this server is about to leave and there is no result yet; the command goes on",
                    code="server_leaving",
                    action="ask_for_the_command",
                    command_id=command.command_id,
                    retry_after=1,
                )
            left = until - time.monotonic()
            if left <= 0:
                raise TimedOut(
                    "no result yet; the command goes on",
                    action="ask_for_the_command",
                    command_id=command.command_id,
                )
            unsent = unsent_until - time.monotonic()
            if command.state is CommandState.PENDING and unsent <= 0:
                await self._post(view, command)
                posted = True
                unsent_until = time.monotonic() + _LOOK_SECONDS
            look = min(left, _LOOK_SECONDS)
            await news.wait(min(look, max(unsent, 0.05)) if command.state is CommandState.PENDING else look)
            command = await self._look(view.agent_id, command)
        return command

    async def _look(self, agent_id: str, command: CommandView) -> CommandView:
        async with self._db.transaction() as session:
            known = await commands.get(session, agent_id, command.command_id)
            if known is not None and known.open:
                await self._end_if_hopeless(session, known)
                known = await commands.get(session, agent_id, command.command_id)
        if known is None:
            raise NotFound("the command is gone with its agent")
        return known

    async def _end_if_hopeless(self, session: AsyncSession, command: CommandView) -> None:
        present = await agents.get(session, command.agent_id)
        if present is None or present.attempt != command.attempt or present.state not in _ANSWERS:
            await commands.abandon(session, command.agent_id, command.attempt, now())
        else:
            await commands.expire(session, command.agent_id, now())

    # ---- without a socket ----

    async def _post(self, view: AgentView, command: CommandView) -> None:
        """Send a command that no socket took to the agent's own HTTP door, which runs a commandId once as well."""
        async with self._db.transaction() as session:
            if not await commands.claim_one(session, command.agent_id, command.command_id):
                return
        task = asyncio.create_task(self._deliver(view, command), name=f"post-{command.agent_id}")
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _deliver(self, view: AgentView, command: CommandView) -> None:
        try:
            reach = await self._reach(view.runtime, command.agent_id, command.attempt)
            result: CommandResult | None = await post(reach, command.agent_id, execute_message(command))
        except (RuntimeFault, httpx2.HTTPError, OSError, ValueError) as error:
            log.warning("command.not_posted", agent_id=command.agent_id, error=type(error).__name__)
            result = None
        try:
            await self._settle(view, command, result)
        except DATABASE_AWAY as error:
            # The row stays sent without an epoch: the next socket sends it again and the agent answers from memory.
            log.warning("command.not_settled", agent_id=command.agent_id, error=type(error).__name__)

    async def _settle(self, view: AgentView, command: CommandView, result: CommandResult | None) -> None:
        async with self._db.transaction() as session:
            if result is None:
                # A socket may come back and take it; until then the caller waits.
                await commands.give_back(session, command.agent_id, command.command_id)
            else:
                await conclude(session, view, result)


def not_ready(view: AgentView) -> Conflict:
    return Conflict(
        f"the agent is {view.state.value}, commands need a running one", code="agent_not_ready", state=view.state.value
    )
