"""The channel rows: which socket of which attempt speaks for an agent, what was heard last and how healthy it is.

Every change names the epoch of the socket it came through. The newest socket has the highest epoch and wins; a change
through an older one, or for an attempt that is over, raises `Superseded` and leaves nothing behind.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from sqlalchemy import BigInteger, Float, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Channel
from core.db.notify import Wake, notify
from core.db.repositories.agents import AgentView, view
from core.db.repositories.alterations import size_of
from core.domain.lifecycle import HOLDING, AgentState
from core.domain.sizes import Size
from core.domain.wire import Health

log = structlog.get_logger()


class Superseded(Exception):
    """A newer socket speaks for the attempt (`replaced`), or the attempt is over and its token dead."""

    def __init__(self, *, replaced: bool) -> None:
        super().__init__("replaced" if replaced else "over")
        self.replaced = replaced


# Under this name an agent's health keeps its Mbit/s, sent and received together; null: nobody knows.
BANDWIDTH = "networkMbit"
REPORTED_AT = "reportedAt"
# An older report says nothing about now.
REPORT_HOLDS = timedelta(seconds=90)
# No agent's own network carries more. Their word is not to be trusted, and the sum of it shuts a cluster's door.
_MOST_MBIT = 10_000.0
# What an attempt has used so far: of a report that does not say, the word before it holds.
SPENT = ("cpuSeconds", "peakMemoryBytes")


def report(row: Channel, health: Health, at: datetime) -> dict[str, Any]:
    """`health` as a row keeps it: with when it came, and the bandwidth used since the report before it.

    A bandwidth that nobody can have is none.
    """
    before, told = row.health or {}, health.model_dump(mode="json", by_alias=True)
    mbit = _bandwidth(before, health.network, at)
    if mbit is not None and mbit > _MOST_MBIT:
        log.warning("agent.network_beyond_belief", agent_id=row.agent_id, attempt=row.attempt, mbit=mbit)
        mbit = None
    spent = {name: before.get(name) if told[name] is None else told[name] for name in SPENT}
    return {**told, **spent, REPORTED_AT: at.isoformat(), BANDWIDTH: mbit}


class Spent(BaseModel):
    """What an attempt, or several, have used by their own last words. None: they could not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


async def spent(session: AsyncSession, agent_id: str, attempt: int) -> Spent:
    row = await session.get(Channel, (agent_id, attempt))
    told = (row.health if row is not None else None) or {}
    return Spent(**{name: told.get(to_camel(name)) for name in Spent.model_fields})


async def spent_in_all(session: AsyncSession, agent_id: str) -> Spent:
    """Of all attempts together: the time added up, the highest peak."""
    cpu, peak = (Channel.health[name].astext for name in SPENT)
    query = select(func.sum(cast(cpu, Float)), func.max(cast(peak, BigInteger))).where(Channel.agent_id == agent_id)
    seconds, most = (await session.execute(query)).one()
    return Spent(cpu_seconds=seconds, peak_memory_bytes=most)


def _bandwidth(before: Mapping[str, Any], carried: int | None, at: datetime) -> float | None:
    if carried is None or before.get("network") is None or before.get(REPORTED_AT) is None:
        return None
    seconds = (at - datetime.fromisoformat(before[REPORTED_AT])).total_seconds()
    if seconds <= 0:
        return None
    # A counter that fell back is of another process.
    return round(max(carried - int(before["network"]), 0) * 8 / seconds / 1e6, 3)


async def last_report(session: AsyncSession, agent_id: str) -> dict[str, Any] | None:
    """What the latest attempt of an agent last told of itself, as `report` made it; None: nothing yet."""
    query = select(Channel.health).where(Channel.agent_id == agent_id).order_by(Channel.attempt.desc()).limit(1)
    found: dict[str, Any] | None = await session.scalar(query)
    return found


async def bandwidth_of(session: AsyncSession, cluster: str, at: datetime) -> float | None:
    """Mbit/s of all agents of a cluster, as they last reported it; None when none of them could tell."""
    used = cast(Channel.health[BANDWIDTH].astext, Float)
    query = (
        select(func.sum(used))
        .join(Agent, (Agent.agent_id == Channel.agent_id) & (Agent.attempt == Channel.attempt))
        .where(Agent.cluster == cluster, Agent.state.in_(HOLDING), Channel.last_seen_at >= at - REPORT_HOLDS)
    )
    found: float | None = await session.scalar(query)
    return found


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


class LetIn(BaseModel):
    """What the row has to say of an attempt that is made: the size it is to have, and the machine it may not be on.

    `token_hash` is of the token that is let in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    token_hash: str
    size: Size | None
    away_from: str | None


async def let_in(
    session: AsyncSession, agent_id: str, attempt: int, token_hash: str, *, in_force: bool
) -> LetIn | None:
    """Let the token of an attempt that starts in; None when the life has moved on.

    One that is in force takes the place of any other. One that may come to be does not: what an earlier try made may
    live by the one that is there.
    """
    let = token_hash if in_force else func.coalesce(Agent.token_hash, token_hash)
    accepted = await session.execute(
        update(Agent)
        .where(Agent.agent_id == agent_id, Agent.attempt == attempt, Agent.state == AgentState.STARTING.value)
        .values(token_hash=let)
        .returning(Agent.token_hash, Agent.cpu_limit, Agent.memory_limit_mib, Agent.away_from)
    )
    row = accepted.one_or_none()
    if row is None:
        return None
    await session.execute(insert(Channel).values(agent_id=agent_id, attempt=attempt).on_conflict_do_nothing())
    return LetIn(token_hash=row.token_hash, size=size_of(row.cpu_limit, row.memory_limit_mib), away_from=row.away_from)


async def was_open(session: AsyncSession, agent_id: str, attempt: int) -> bool:
    """Whether the attempt ever had a socket."""
    row = await session.get(Channel, (agent_id, attempt))
    return row is not None and row.connected_at is not None


async def open_socket(
    session: AsyncSession, who: AgentView, token_hash: str, replica: str, next_seq: int, at: datetime
) -> Opened:
    """Give a new socket the next epoch and wake the holder of an older one.

    `next_seq` is the number the agent will use next. One that is not above the last durable one comes from a new
    process that counts from the start again, so the count follows it.
    """
    await _alive(session, who.agent_id, who.attempt, token_hash)
    values = {"replica": replica, "connected_at": at, "last_seen_at": func.now(), "disconnected_at": None}
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


async def register(session: AsyncSession, who: AgentView, token_hash: str) -> int:
    """Note that the attempt speaks, without a socket of its own; returns the last durable number."""
    await _alive(session, who.agent_id, who.attempt, token_hash)
    statement = (
        insert(Channel)
        .values(agent_id=who.agent_id, attempt=who.attempt, last_seen_at=func.now())
        .on_conflict_do_update(index_elements=[Channel.agent_id, Channel.attempt], set_={"last_seen_at": func.now()})
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


def hear(row: Channel) -> None:
    """Note that a word of the attempt came now; by the database's clock, by which its silence is measured."""
    row.last_seen_at = func.now()


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
