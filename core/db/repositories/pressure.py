"""What a look for pressure reads and notes: a cluster's last look, who lives there, who was evicted."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Agent, Channel, Cluster, User
from core.db.repositories import channels, commands
from core.db.repositories.clusters import STALE_AFTER
from core.domain.lifecycle import LIVING, AgentState
from core.domain.pressure import EvictReason, Kind, Resident
from core.domain.thresholds import Look, look_of
from core.domain.tiers import Tier

_LIVING = [state.value for state in LIVING]


class Strained(BaseModel):
    """A cluster's last look, and when a look for pressure last found its memory short; None: the last one did not."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    look: Look
    short_at: datetime | None


async def strain(session: AsyncSession, cluster: str, at: datetime) -> Strained | None:
    """None when the last look is too old to act upon: nobody is evicted on a guess."""
    row = await session.get(Cluster, cluster)
    look = look_of(row.detail) if row is not None else None
    if row is None or look is None or at - row.measured_at > STALE_AFTER:
        return None
    return Strained(look=look, short_at=row.pressure_since)


async def note(session: AsyncSession, cluster: str, short_at: datetime | None) -> None:
    """Keep when a look found memory short; None: it did not."""
    await session.execute(update(Cluster).where(Cluster.cluster == cluster).values(pressure_since=short_at))


async def residents(
    session: AsyncSession, cluster: str, at: datetime, kinds: Mapping[str, Kind], otherwise: Kind
) -> list[Resident]:
    """Who holds memory of a cluster. `kinds` by the names of templates; `otherwise` where that is none any more.

    Their users' tiers as they are now, whatever they were when the agents began. What a command needed was use of its
    agent until it was answered.
    """
    used_at = func.greatest(Agent.last_activity_at, commands.last_answer())
    query = (
        select(Agent, User.tier, Channel.health, Channel.last_seen_at, commands.runs(at), used_at)
        .join(User, User.user_id == Agent.user_id)
        .outerjoin(Channel, (Channel.agent_id == Agent.agent_id) & (Channel.attempt == Agent.attempt))
        .where(Agent.cluster == cluster, Agent.state.in_([AgentState.RUNNING.value, AgentState.DRAINING.value]))
    )
    found: list[Resident] = []
    for row, tier, health, seen_at, commanded, used in (await session.execute(query)).all():
        kind = kinds.get(row.template, otherwise)
        reported = health if health and seen_at is not None and at - seen_at <= channels.REPORT_HOLDS else {}
        found.append(
            Resident(
                agent_id=row.agent_id,
                tier=Tier(tier),
                started_at=row.admitted_at or row.created_at,
                last_activity_at=used,
                away_seconds=kind.away_seconds,
                memory_bytes=kind.resources.believed(reported.get("memory"), row.memory_limit_mib),
                busy=bool(commanded or reported.get("taskRunning")),
                watched=bool(reported.get("viewers")),
                leaving=row.state == AgentState.DRAINING.value,
            )
        )
    return found


async def note_eviction(session: AsyncSession, cluster: str, reason: EvictReason) -> None:
    """Count it, for ever; the number is told as a metric."""
    await session.execute(
        text(
            "UPDATE clusters SET evictions = evictions || jsonb_build_object("
            "CAST(:reason AS text), coalesce((evictions ->> CAST(:reason AS text))::bigint, 0) + 1"
            ") WHERE cluster = :cluster"
        ),
        {"cluster": cluster, "reason": reason.value},
    )


async def owners_of_living(session: AsyncSession) -> list[tuple[str, str]]:
    """User and project of every agent that is not over; their profiles are in use, or will be in a moment."""
    query = select(Agent.user_id, Agent.project_id).where(Agent.state.in_(_LIVING)).distinct()
    return [(user_id, project_id) for user_id, project_id in (await session.execute(query)).all()]
