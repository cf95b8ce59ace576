"""The command rows: what users asked an agent to do, who sends it, and how it ended."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import BindParameter, Exists, Row, ScalarSelect, and_, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Command
from core.db.notify import Wake, notify, result_key
from core.domain.wire import CommandFault, CommandName
from core.errors import Busy, KeyReused

EXECUTE, SHUTDOWN = "execute", "graceful_shutdown"
MAX_OPEN = 32


class CommandState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


OPEN = (CommandState.PENDING, CommandState.SENT)
# Ended by the agent's word or its user's, not by the clock.
ANSWERED = (CommandState.DONE, CommandState.FAILED, CommandState.CANCELLED)
# Spelt out in the query, not sent beside it. Else a plan that a connection keeps for whatever it is asked cannot know
# that the small indexes of commands hold what is looked for, and reads all that an agent was ever told to do.
_EXECUTE: BindParameter[str] = bindparam("execute", EXECUTE, literal_execute=True)
_RUN_TASK: BindParameter[str] = bindparam("run_task", CommandName.RUN_TASK.value, literal_execute=True)
_IS_OPEN = Command.state.in_(bindparam("open", [*OPEN], expanding=True, literal_execute=True))
_IS_ANSWERED = Command.state.in_(bindparam("answered", [*ANSWERED], expanding=True, literal_execute=True))


class CommandView(BaseModel):
    """One command as it stands. `result` when DONE; `fault` and `fault_detail` when it ended otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)
    agent_id: str
    command_id: str
    attempt: int
    kind: str
    name: str
    parameters: dict[str, Any]
    state: CommandState
    created_at: datetime
    deadline_at: datetime
    cancel_asked: bool
    result: dict[str, Any] | None
    fault: CommandFault | None
    fault_detail: str | None
    ended_at: datetime | None

    @property
    def open(self) -> bool:
        return self.state in OPEN


class Asked(BaseModel):
    """A command to be run by one attempt, at the latest until `deadline_at`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    attempt: int
    command_id: str
    name: str
    parameters: dict[str, Any]
    deadline_at: datetime


async def submit(session: AsyncSession, asked: Asked, at: datetime) -> CommandView:
    """Store the command and wake whoever can send it; the same id again returns the command as it stands.

    Raises `KeyReused` when the id belongs to another command, `Busy` when the agent has too many open ones.
    """
    known = await get(session, asked.agent_id, asked.command_id)
    if known is None:
        await expire(session, asked.agent_id, at)
        open_ones = select(func.count()).where(Command.agent_id == asked.agent_id, Command.kind == EXECUTE, _IS_OPEN)
        if (await session.execute(open_ones)).scalar_one() >= MAX_OPEN:
            raise Busy(f"the agent has {MAX_OPEN} commands that are not finished; wait for one or cancel one")
        row = (
            await session.execute(
                insert(Command)
                .values(kind=EXECUTE, created_at=at, **asked.model_dump())
                .on_conflict_do_nothing()
                .returning(Command)
            )
        ).scalar_one_or_none()
        if row is not None:
            await notify(session, Wake.COMMANDS, asked.agent_id)
            return _view(row)
        # Another request with this id came first; READ COMMITTED sees its row now.
        known = await get(session, asked.agent_id, asked.command_id)
    if known is None or (known.kind, known.name, known.parameters) != (EXECUTE, asked.name, asked.parameters):
        raise KeyReused("this Idempotency-Key was used for another command of this agent")
    return known


async def order_shutdown(
    session: AsyncSession, agent_id: str, attempt: int, parameters: dict[str, Any], deadline_at: datetime
) -> datetime:
    """Put the order where the replica with the attempt's socket finds it, once; return the deadline it runs under."""
    row = insert(Command).values(
        agent_id=agent_id,
        # With a space, which no user's Idempotency-Key has: a command of that name must not stand in its place.
        command_id=f"shutdown {attempt}",
        attempt=attempt,
        kind=SHUTDOWN,
        name=SHUTDOWN,
        parameters=parameters,
        deadline_at=deadline_at,
    )
    # Touching nothing on conflict would return nothing: a repeated try needs the first one's deadline.
    stored = await session.execute(
        row.on_conflict_do_update(
            index_elements=["agent_id", "command_id"], set_={"deadline_at": Command.deadline_at}
        ).returning(Command.deadline_at)
    )
    await notify(session, Wake.COMMANDS, agent_id)
    return stored.scalar_one()


async def get(session: AsyncSession, agent_id: str, command_id: str) -> CommandView | None:
    query = select(Command).where(Command.agent_id == agent_id, Command.command_id == command_id)
    row = (await session.execute(query.execution_options(populate_existing=True))).scalar_one_or_none()
    return None if row is None else _view(row)


async def claim(
    session: AsyncSession, agent_id: str, attempt: int, epoch: int, at: datetime, limit: int
) -> list[CommandView]:
    """Take what socket `epoch` has yet to send, oldest first: new commands, and those an earlier socket had taken.

    The agent runs a commandId once, so sending again after a break does no harm. The caller holds the channel row.
    """
    due = (
        select(Command.command_id)
        .where(
            Command.agent_id == agent_id,
            Command.attempt == attempt,
            _IS_OPEN,
            Command.deadline_at > at,
            or_(
                Command.state == CommandState.PENDING,
                and_(Command.state == CommandState.SENT, func.coalesce(Command.sent_epoch, 0) < epoch),
            ),
        )
        .order_by(Command.created_at, Command.command_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = (
        update(Command)
        .where(Command.agent_id == agent_id, Command.command_id.in_(due))
        .values(state=CommandState.SENT, sent_epoch=epoch)
        .returning(Command)
    )
    rows = [_view(row) for row in (await session.execute(taken)).scalars()]
    return sorted(rows, key=lambda row: (row.created_at, row.command_id))


async def claim_one(session: AsyncSession, agent_id: str, command_id: str) -> bool:
    """Take one command that no socket has taken, to send it over HTTP; False when somebody was faster."""
    taken = (
        update(Command)
        .where(
            Command.agent_id == agent_id,
            Command.command_id == command_id,
            Command.state == CommandState.PENDING,
        )
        .values(state=CommandState.SENT)
        .returning(Command.command_id)
    )
    return (await session.execute(taken)).scalar_one_or_none() is not None


async def give_back(session: AsyncSession, agent_id: str, command_id: str) -> None:
    """Undo `claim_one`, unless a socket has taken the command since."""
    await session.execute(
        update(Command)
        .where(Command.agent_id == agent_id, Command.command_id == command_id)
        .where(Command.state == CommandState.SENT, Command.sent_epoch.is_(None))
        .values(state=CommandState.PENDING)
    )
    await notify(session, Wake.COMMANDS, agent_id)


async def told(session: AsyncSession, agent_id: str, command_id: str, at: datetime) -> None:
    """End an order that has no answer: being sent is all of it."""
    await session.execute(
        update(Command)
        .where(Command.agent_id == agent_id, Command.command_id == command_id, Command.kind != EXECUTE)
        .where(Command.state.in_(OPEN))
        .values(state=CommandState.DONE, ended_at=at)
    )


async def to_cancel(session: AsyncSession, agent_id: str, attempt: int) -> list[str]:
    """Sent commands whose cancellation was asked for."""
    query = select(Command.command_id).where(
        Command.agent_id == agent_id,
        Command.attempt == attempt,
        _IS_OPEN,
        Command.state == CommandState.SENT,
        Command.cancel_asked,
    )
    return list((await session.execute(query)).scalars())


async def finish(
    session: AsyncSession,
    agent_id: str,
    command_id: str,
    at: datetime,
    *,
    attempt: int | None = None,
    result: dict[str, Any] | None = None,
    fault: CommandFault | None = None,
    detail: str = "",
    state: CommandState | None = None,
) -> CommandView | None:
    """End an open command and wake its callers; None when it was not open (any more), and nothing changes."""
    cancelled = fault is CommandFault.CANCELLED
    ended = state or (
        CommandState.CANCELLED if cancelled else CommandState.DONE if fault is None else CommandState.FAILED
    )
    statement = update(Command).where(
        Command.agent_id == agent_id,
        Command.command_id == command_id,
        Command.kind == EXECUTE,
        Command.state.in_(OPEN),
    )
    if attempt is not None:
        statement = statement.where(Command.attempt == attempt)
    statement = statement.values(state=ended, result=result, fault=fault, fault_detail=detail or None, ended_at=at)
    row = (await session.execute(statement.returning(Command))).scalar_one_or_none()
    if row is None:
        return None
    await notify(session, Wake.RESULTS, result_key(agent_id, command_id))
    return _view(row)


async def ask_cancel(session: AsyncSession, agent_id: str, command_id: str, at: datetime) -> CommandView | None:
    """Cancel: at once what was not sent, else by asking the agent. Returns the command as it stands then."""
    statement = update(Command).where(
        Command.agent_id == agent_id, Command.command_id == command_id, Command.kind == EXECUTE
    )
    unsent = statement.where(Command.state == CommandState.PENDING).values(
        state=CommandState.CANCELLED, fault=CommandFault.CANCELLED, cancel_asked=True, ended_at=at
    )
    if (await session.execute(unsent.returning(Command.command_id))).scalar_one_or_none() is not None:
        await notify(session, Wake.RESULTS, result_key(agent_id, command_id))
    else:
        await session.execute(statement.where(Command.state == CommandState.SENT).values(cancel_asked=True))
        await notify(session, Wake.COMMANDS, agent_id)
    return await get(session, agent_id, command_id)


async def expire(session: AsyncSession, agent_id: str, at: datetime) -> None:
    """End open commands past their deadline, so that an agent that lost one is not blocked by it."""
    await session.execute(
        update(Command)
        .where(Command.agent_id == agent_id, _IS_OPEN, Command.deadline_at < at)
        .values(state=CommandState.EXPIRED, fault=CommandFault.TIMED_OUT, fault_detail="no result in time", ended_at=at)
    )


async def abandon(session: AsyncSession, agent_id: str, attempt: int | None, at: datetime) -> None:
    """End what is open of `attempt` (None: of all), which is over: nobody will answer it. Wakes who waits for it."""
    statement = update(Command).where(Command.agent_id == agent_id, _IS_OPEN)
    if attempt is not None:
        statement = statement.where(Command.attempt == attempt)
    statement = statement.values(
        state=CommandState.EXPIRED,
        fault=CommandFault.SHUTTING_DOWN,
        fault_detail="the agent ended before it answered",
        ended_at=at,
    )
    for command_id in (await session.execute(statement.returning(Command.command_id))).scalars():
        await notify(session, Wake.RESULTS, result_key(agent_id, command_id))


# Answered so, a command was turned away before it did anything.
_TURNED_AWAY = (
    CommandFault.UNKNOWN_COMMAND,
    CommandFault.INVALID_PARAMETERS,
    CommandFault.NO_MODEL,
    CommandFault.BUSY,
)


async def tasks_begun(session: AsyncSession, agent_id: str) -> int:
    """How many tasks all attempts of the agent were given and took up, however they went."""
    # Unsent, a command ends without a word; what the agent says of one that it had has words.
    given = or_(
        Command.sent_epoch.is_not(None),
        Command.state.in_((CommandState.SENT, CommandState.DONE, CommandState.FAILED)),
        and_(Command.state == CommandState.CANCELLED, Command.fault_detail.is_not(None)),
    )
    query = select(func.count()).where(
        Command.agent_id == agent_id,
        Command.name == _RUN_TASK,
        Command.kind == _EXECUTE,
        given,
        or_(Command.fault.is_(None), Command.fault.not_in(_TURNED_AWAY)),
    )
    return int((await session.execute(query)).scalar_one())


def runs(at: datetime) -> Exists:
    """Of a query's agent: whether a command of its attempt is under way, and may still be."""
    return (
        select(Command.command_id)
        .where(
            Command.agent_id == Agent.agent_id,
            Command.attempt == Agent.attempt,
            Command.kind == _EXECUTE,
            _IS_OPEN,
            Command.deadline_at > at,
        )
        .exists()
    )


def last_answer() -> ScalarSelect[datetime | None]:
    """Of a query's agent: when a command of its attempt was answered last."""
    return (
        select(func.max(Command.ended_at))
        .where(
            Command.agent_id == Agent.agent_id,
            Command.attempt == Agent.attempt,
            Command.kind == _EXECUTE,
            _IS_ANSWERED,
        )
        .scalar_subquery()
    )


def _view(row: Row[Any] | Command) -> CommandView:
    return CommandView.model_validate(row)
