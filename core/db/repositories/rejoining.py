"""A restart that has no room gives its slot back and waits for the next one, before everybody who never had one."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from core.db.repositories import agents, clusters, events, locks, moves, queue
from core.db.repositories.agents import fact
from core.db.repositories.moves import Moved
from core.domain.admission import QueueReason
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from core.domain.queueing import FRONT
from core.domain.room import overfull
from core.domain.templates import Pool


async def rejoin(
    session: AsyncSession, agent_id: str, attempt: int, name: str, pool: Pool, max_waiting: int, at: datetime
) -> Moved:
    """Write that a restart waits in line, where nothing fits; else the row is left as it is.

    `attempt` is the one that failed. In line the row has the next one, which begins with its grant. Asked again, it
    answers with what it did. Raises `InvalidRequest` (`not_found`) when there is no such agent.
    """
    await locks.cluster(session, pool.cluster)
    row = await agents.lock(session, agent_id)
    if row is None or row.attempt != attempt or row.state != AgentState.RESTARTING:
        return await moves.unmoved(session, agent_id)
    room = await clusters.room(session, name, pool, at, max_waiting, row.template, counted=1)
    # What another was refused is no word about this one, if it had a machine: that one has a place now.
    if not overfull(room) and not (room.refused and row.ready_at is None):
        return Moved(applied=False, state=AgentState.RESTARTING, attempt=attempt)
    since = await moves.since(session, agent_id)
    # The slot is not free for another, so nothing is counted as having left.
    row.usage = {"seconds": moves.held_seconds(row, at)}
    row.state, row.reason, row.attempt = AgentState.QUEUED.value, QueueReason.NO_NODE.value, attempt + 1
    row.admitted_at = row.admission_seen_at = row.started_at = row.ready_at = row.deadline_at = None
    row.token_hash = row.away_from = None
    row.wait_estimate_minutes = row.wait_low_minutes = row.wait_high_minutes = None
    # From now on it waits.
    row.order_front, row.last_activity_at = FRONT, at
    numbers = {"attempt": row.attempt, "holders": room.holders, "clusterFree": room.cluster_free}
    waits = fact(EventKind.QUEUED, AgentState.QUEUED, QueueReason.NO_NODE.value, **numbers)
    await events.append(session, row, at, waits)
    await queue.announce(session, name)
    return Moved(applied=True, state=AgentState.QUEUED, attempt=row.attempt, left=AgentState.RESTARTING, since=since)
