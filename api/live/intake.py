"""What an agent's messages do: effect and message number in one transaction, guarded by the socket's epoch."""

from collections import Counter
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from api.live.ports import now
from api.live.reporter import WAITS_FOR_READY, Reporter
from core.db.engine import Db
from core.db.repositories import agents, artefacts, channels, commands, events, upkeep
from core.db.repositories.agents import AgentView
from core.db.repositories.channels import Opened
from core.db.repositories.commands import CommandView
from core.db.repositories.events import Fact
from core.domain import silence, storable
from core.domain.events import EventKind
from core.domain.excerpts import with_places
from core.domain.lifecycle import AgentState
from core.domain.wire import (
    BROWSER_REOPENED,
    MAKE_ARTEFACTS,
    AgentStatus,
    BrowserEnd,
    CommandFault,
    CommandResult,
    Health,
    Ready,
)

log = structlog.get_logger()

FAILED_CHECKS_TO_REPORT = 3
VIEWER_ACTIVE = "viewer_active"
# What an agent says of its browser is told to its user; of more than this many in ten minutes only the log hears.
REOPENED_AT_MOST, REOPENED_WITHIN = 10, timedelta(minutes=10)
_LIVES = frozenset({AgentState.STARTING, AgentState.RUNNING, AgentState.DRAINING})


class Intake:
    """Everything here raises `channels.Superseded` for a socket that no longer speaks for its attempt."""

    def __init__(self, db: Db, reporter: Reporter) -> None:
        self._db, self._reporter = db, reporter
        self.reopened: Counter[BrowserEnd] = Counter()
        """Browsers that took the place of one that ended, as this process was told."""

    async def online(self, who: AgentView, token_hash: str, replica: str, next_seq: int) -> Opened:
        async with self._db.transaction() as session:
            opened = await channels.open_socket(session, who, token_hash, replica, next_seq, now())
        if opened.ready:
            # The signal may have been lost with the process that was to send it.
            self._reporter.ready(who)
        return opened

    async def take(self, who: AgentView, epoch: int, message: Ready | AgentStatus | CommandResult) -> int:
        """Make the effect durable once, and return the number up to which everything is."""
        async with self._db.transaction() as session:
            row = await channels.hold(session, who, epoch)
            at = now()
            channels.hear(row)
            if message.seq <= row.last_seq:
                return row.last_seq
            row.last_seq = message.seq
            match message:
                case Ready():
                    row.ready_at = row.ready_at or at
                case AgentStatus(status=status):
                    if status == VIEWER_ACTIVE:
                        await agents.touch(session, who.agent_id, at)
                    elif status == BROWSER_REOPENED:
                        await reopen(session, who, message)
                case CommandResult():
                    await conclude(session, who, message)
        match message:
            case Ready(seconds=seconds):
                log.info("agent.ready", agent_id=who.agent_id, attempt=who.attempt, seconds=seconds)
                self._reporter.ready(who)
            case AgentStatus(status=status, detail=detail):
                log.info("agent.status", agent_id=who.agent_id, status=status, detail=with_places(detail)[:300])
                if status == BROWSER_REOPENED and (end := _end_of(message)) is not None:
                    self.reopened[end] += 1
            case CommandResult(command_id=command_id, fault=fault):
                log.info("command.ended", agent_id=who.agent_id, command_id=command_id[:300], fault=fault)
        return message.seq

    async def register(self, who: AgentView, token_hash: str) -> int:
        async with self._db.transaction() as session:
            return await channels.register(session, who, token_hash)

    async def heartbeat(self, who: AgentView, epoch: int | None, health: Health) -> int:
        """Note the agent's health; the third bad report in a row tells its workflow.

        Without a socket (`epoch` None) there is no `ready` message, so the first healthy report stands for it.
        """
        async with self._db.transaction() as session:
            row = await channels.hold(session, who, epoch)
            at = now()
            channels.hear(row)
            row.health = storable.json(channels.report(row, health, at))
            failed = row.failed_checks + 1 if health.status == "unhealthy" else 0
            row.failed_checks = failed % FAILED_CHECKS_TO_REPORT
            if epoch is None and row.ready_at is None and health.status == "healthy":
                row.ready_at = at
            ready, last_seq = row.ready_at is not None, row.last_seq
        if failed >= FAILED_CHECKS_TO_REPORT:
            self._reporter.unhealthy(who, storable.text(health.detail)[:500] or "the agent reports itself unhealthy")
        elif ready and who.state in WAITS_FOR_READY:
            self._reporter.ready(who)
        return last_seq

    async def missed(self, who: AgentView, epoch: int, silent_seconds: float) -> None:
        """Count an overdue heartbeat of an open socket as a failed check, once the agent has been ready."""
        async with self._db.transaction() as session:
            row = await channels.hold(session, who, epoch)
            if row.ready_at is None:
                return
            failed = row.failed_checks + 1
            row.failed_checks = failed % FAILED_CHECKS_TO_REPORT
            lost = failed >= FAILED_CHECKS_TO_REPORT
            if lost:
                # Those who fell silent with it may be a heartbeat behind. The reaper decides of a crowd: it sees all.
                half = timedelta(seconds=silent_seconds / 2)
                heard = await upkeep.heard_channels(session, half)
                lost = not silence.company(who.cluster, heard).of_many
        log.warning("agent.silent", agent_id=who.agent_id, attempt=who.attempt, failed_checks=failed)
        if lost:
            self._reporter.unhealthy(who, f"no heartbeat for {silent_seconds:.0f} s on an open channel")

    async def offline(self, who: AgentView, epoch: int) -> None:
        async with self._db.transaction() as session:
            await channels.close_socket(session, who, epoch, now())


async def reopen(session: AsyncSession, who: AgentView, message: AgentStatus) -> None:
    """Tell the agent's user that it has another browser, and how the one before ended."""
    row = await agents.lock(session, who.agent_id)
    if row is None or row.attempt != who.attempt or row.state not in _LIVES:
        return
    at = now()
    if await events.count(session, who.agent_id, EventKind.BROWSER_REOPENED, at - REOPENED_WITHIN) >= REOPENED_AT_MOST:
        return
    end = _end_of(message)
    fact = Fact(
        kind=EventKind.BROWSER_REOPENED,
        state=AgentState(row.state),
        reason=None if end is None else end.value,
        detail={"detail": storable.text(message.detail)[:500]},
    )
    await events.append(session, row, at, fact)


def _end_of(message: AgentStatus) -> BrowserEnd | None:
    """How the browser ended that was replaced; None for what this version does not know."""
    told = message.data.get("end")
    return BrowserEnd(told) if told in list(BrowserEnd) else None


async def conclude(session: AsyncSession, who: AgentView, message: CommandResult) -> CommandView | None:
    """End a command with what the agent says and tell its user, in one transaction; None when it has ended already.

    The agent's row is locked before the command's, in the same order as everywhere else.
    """
    row = await agents.lock(session, who.agent_id)
    if row is None or row.attempt != who.attempt:
        return None
    at, command_id = now(), storable.text(message.command_id)
    fault, detail = message.fault, message.detail
    result: dict[str, Any] | None = None
    if fault is None:
        result = await _result(session, who.agent_id, command_id, message)
        if result is None:
            fault, detail = CommandFault.NOT_STORED, "the agent stored nothing for this command"
    ended = await commands.finish(
        session,
        who.agent_id,
        command_id,
        at,
        attempt=who.attempt,
        result=result,
        fault=fault,
        detail=storable.text(detail),
    )
    if ended is None:
        return None
    told: dict[str, Any] = {"commandId": ended.command_id, "command": ended.name, "status": ended.state.value}
    if fault is not None and fault is not CommandFault.CANCELLED:
        told["fault"] = fault.value
    await events.append(
        session, row, at, Fact(kind=EventKind.COMMAND_EXECUTED, state=AgentState(row.state), detail=told)
    )
    return ended


async def _result(
    session: AsyncSession, agent_id: str, command_id: str, message: CommandResult
) -> dict[str, Any] | None:
    """What the caller gets; None when there should be an artefact and is none.

    What is an artefact's is told from our own row: whoever fetches the `url` shows its token there, so an agent must
    not be the one who names it.
    """
    command = await commands.get(session, agent_id, command_id)
    if command is None or command.name not in MAKE_ARTEFACTS:
        told: dict[str, Any] = storable.json(message.result or {})
        return told
    stored = await artefacts.of_command(session, agent_id, command_id)
    return None if stored is None else stored.told().model_dump(by_alias=True)
