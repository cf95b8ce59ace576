"""The channel rows: which socket of which attempt speaks for an agent, what was heard last and how healthy it is.

Every change names the epoch of the socket it came through. The newest socket has the highest epoch and wins; a change
through an older one, or for an attempt that is over, raises `Superseded` and leaves nothing behind.
"""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Channel
from core.db.notify import Wake, notify
from core.db.repositories.agents import AgentView, view
from core.domain.lifecycle import HOLDING


class Superseded(Exception):
    """A newer socket speaks for the attempt (`replaced`), or the attempt is over and its token dead."""

    def __init__(self, *, replaced: bool) -> None:
        super().__init__("replaced" if replaced else "over")
        self.replaced = replaced


class Opened(BaseModel):
    """A socket's number, and where its attempt stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    epoch: int
    last_seq: int
    ready: bool


async def speaker(session: AsyncSession, token_hash: str) -> AgentView | None:
    """Whose token it is; None when it is unknown or its attempt is over. A look-up by hash, so timing tells nothing."""
    row = await session.scalar(select(Agent).where(Agent.token_hash == token_hash, Agent.state.in_(HOLDING)))
    return None if row is None else view(row)


async def open_socket(
    session: AsyncSession, who: AgentView, token_hash: str, replica: str, next_seq: int, at: datetime
) -> Opened:
    """Give a new socket the next epoch and wake the holder of an older one.

    `next_seq` is the number the agent will use next. One that is not above the last durable one comes from a new
    process that counts from the start again, so the count follows it.
    """
    await _alive(session, who.agent_id, who.attempt, token_hash)
    values = {"replica": replica, "connected_at": at, "last_seen_at": at, "disconnected_at": None}
    statement = (
        insert(Channel)
        .values(agent_id=who.agent_id, attempt=who.attempt, epoch=1, last_seq=0, **values)
        .on_conflict_do_update(
            index_elements=[Channel.agent_id, Channel.attempt],
            set_={"epoch": Channel.epoch + 1, "last_seq": func.least(Channel.last_seq, next_seq - 1), **values},
        )
        .returning(Channel.epoch, Channel.last_seq, Channel.ready_at)
    )
    row = (await session.execute(statement)).one()
    await notify(session, Wake.CHANNEL, who.agent_id)
    return Opened(epoch=row.epoch, last_seq=row.last_seq, ready=row.ready_at is not None)


async def register(session: AsyncSession, who: AgentView, token_hash: str, at: datetime) -> int:
    """Note that the attempt speaks, without a socket of its own; returns the last durable number."""
    await _alive(session, who.agent_id, who.attempt, token_hash)
    statement = (
        insert(Channel)
        .values(agent_id=who.agent_id, attempt=who.attempt, last_seen_at=at)
        .on_conflict_do_update(index_elements=[Channel.agent_id, Channel.attempt], set_={"last_seen_at": at})
        .returning(Channel.last_seq)
    )
    return int((await session.execute(statement)).scalar_one())


async def hold(session: AsyncSession, who: AgentView, epoch: int | None) -> Channel:
    """Lock the attempt's channel row for an effect through socket `epoch` (None: by HTTP). Raises `Superseded`."""
    query = select(Channel).where(Channel.agent_id == who.agent_id, Channel.attempt == who.attempt).with_for_update()
    row = (await session.execute(query)).scalar_one_or_none()
    if row is None or epoch not in (None, row.epoch):
        raise Superseded(replaced=True)
    await _alive(session, who.agent_id, who.attempt)
    return row


async def held_by(session: AsyncSession, who: AgentView, epoch: int) -> None:
    """Raise `Superseded` unless socket `epoch` still speaks for a living attempt; no newer one opens before commit."""
    query = (
        select(Channel.epoch, Agent.attempt, Agent.state, Agent.token_hash)
        .join(Agent, Agent.agent_id == Channel.agent_id)
        .where(Channel.agent_id == who.agent_id, Channel.attempt == who.attempt)
        .with_for_update(read=True, of=Channel)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None or row.epoch != epoch:
        raise Superseded(replaced=True)
    if row.attempt != who.attempt or row.token_hash is None or row.state not in HOLDING:
        raise Superseded(replaced=False)


async def close_socket(session: AsyncSession, who: AgentView, epoch: int, at: datetime) -> None:
    """Note that socket `epoch` is gone; nothing when a newer one is there."""
    await session.execute(
        update(Channel)
        .where(Channel.agent_id == who.agent_id, Channel.attempt == who.attempt, Channel.epoch == epoch)
        .values(disconnected_at=at)
    )


async def _alive(session: AsyncSession, agent_id: str, attempt: int, token_hash: str | None = None) -> None:
    query = select(Agent.token_hash).where(
        Agent.agent_id == agent_id, Agent.attempt == attempt, Agent.state.in_(HOLDING), Agent.token_hash.is_not(None)
    )
    current = (await session.execute(query)).scalar_one_or_none()
    if current is None or (token_hash is not None and current != token_hash):
        raise Superseded(replaced=False)
