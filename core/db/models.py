"""The tables. Rows only: what may happen to them is in `core.domain`, how they are read is in the repositories."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.domain.lifecycle import CURRENT, LIVING, WAITING
from core.domain.schedule import PENDING

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def _in(states: frozenset[Any]) -> str:
    return "state IN ({})".format(", ".join(f"'{state.value}'" for state in sorted(states)))


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {str: Text, datetime: DateTime(timezone=True), dict[str, Any]: JSONB}  # noqa: RUF012


class User(Base):
    __tablename__ = "users"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str | None]
    tier: Mapped[str] = mapped_column(server_default="free")
    subscription_active_until: Mapped[datetime | None]
    # Counts this user's events; taken in the transaction of each event, so that readers by cursor miss none.
    event_cursor: Mapped[int] = mapped_column(BigInteger, server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Project(Base):
    __tablename__ = "projects"
    project_id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Membership(Base):
    __tablename__ = "memberships"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True)
    __table_args__ = (Index("ix_memberships_user_id", "user_id", "project_id"),)


class PoolOverride(Base):
    """What an operator changed of a pool at run time; wins over the settings."""

    __tablename__ = "pool_overrides"
    pool: Mapped[str] = mapped_column(primary_key=True)
    capacity: Mapped[int | None]
    paused: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))


class Cluster(Base):
    """The last look at a cluster's room, written by whoever can reach its runtime."""

    __tablename__ = "clusters"
    cluster: Mapped[str] = mapped_column(primary_key=True)
    measured_at: Mapped[datetime]
    # How many agents the cluster takes in all: what still fits and what we run there already. None: unknown.
    total: Mapped[int | None]
    choked: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    # A `core.domain.thresholds.Look`.
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    # When a look for pressure first found the memory over its threshold; null: the last one did not.
    pressure_since: Mapped[datetime | None]
    # Pools of which an agent was found to have no machine, and when; emptied as soon as there may be room again.
    refused: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    # How many agents were evicted since ever, by reason.
    evictions: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


class Agent(Base):
    __tablename__ = "agents"
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.user_id"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.project_id"))
    workflow_id: Mapped[str]
    template: Mapped[str]
    pool: Mapped[str]
    cluster: Mapped[str]
    runtime: Mapped[str]
    tier: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(server_default="1")
    restart_count: Mapped[int] = mapped_column(server_default="0")
    event_seq: Mapped[int] = mapped_column(server_default="0")
    # The order key, fixed at enqueue, and what a change of tier makes it of anew: when the request came (or the
    # eviction that it makes good), and how many other agents its user had then.
    order_front: Mapped[int] = mapped_column(server_default="1")
    order_tier: Mapped[int]
    order_fair: Mapped[int] = mapped_column(server_default="0")
    order_at: Mapped[datetime]
    order_since: Mapped[datetime] = mapped_column(server_default=func.now())
    order_others: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime]
    admitted_at: Mapped[datetime | None]
    # Set by the workflow when the grant reached it; until then the grant is signalled again.
    admission_seen_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ready_at: Mapped[datetime | None]
    last_activity_at: Mapped[datetime]
    deadline_at: Mapped[datetime | None]
    keepable: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    ended_at: Mapped[datetime | None]
    # Hash of the agent's token for the attempt; cleared when the agent ends, so that a zombie is refused.
    token_hash: Mapped[str | None]
    # What it was told when it came, to be held against the wait that it then has.
    wait_estimate_minutes: Mapped[int | None]
    wait_low_minutes: Mapped[int | None]
    wait_high_minutes: Mapped[int | None]
    usage: Mapped[dict[str, Any] | None]
    # Limits that were given to it; None: its template's.
    cpu_limit: Mapped[float | None] = mapped_column(Float)
    memory_limit_mib: Mapped[int | None]
    # A machine that the next attempt must not be on.
    away_from: Mapped[str | None]

    __table_args__ = (
        Index("uq_agents_current", "user_id", "project_id", unique=True, postgresql_where=text(_in(CURRENT))),
        Index("ix_agents_living", "user_id", postgresql_where=text(_in(LIVING))),
        Index(
            "ix_agents_waiting",
            "pool",
            "order_front",
            "order_tier",
            "order_fair",
            "order_at",
            "agent_id",
            postgresql_where=text(_in(WAITING)),
        ),
        Index("ix_agents_holding", "cluster", "state", postgresql_where=text(_in(LIVING - WAITING))),
        Index("ix_agents_user_page", "user_id", "created_at", "agent_id"),
        Index("ix_agents_page", "created_at", "agent_id"),
        # Of all states, not of final ones alone: then it serves also a plan that is made before the state is known.
        Index("ix_agents_state_page", "state", "created_at", "agent_id"),
        Index("ix_agents_token_hash", "token_hash", unique=True),
        Index("ix_agents_ended_at", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    )


# Of events that tell of the life itself. Answers to commands are by far the most, and none of these.
OF_LIFE = "kind <> 'command.executed'"


class EventRow(Base):
    __tablename__ = "events"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    cursor: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    agent_id: Mapped[str | None]
    project_id: Mapped[str]
    seq: Mapped[int | None]
    at: Mapped[datetime]
    kind: Mapped[str]
    state: Mapped[str | None]
    reason: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    __table_args__ = (
        UniqueConstraint("agent_id", "seq"),
        Index("ix_events_refusals", "at", postgresql_where=text("agent_id IS NULL")),
        Index("ix_events_of_life", "agent_id", "seq", postgresql_where=text(OF_LIFE)),
    )


class Idempotency(Base):
    """An answer kept 24 h under its key. `answer` is null while the first request is under way."""

    __tablename__ = "idempotency"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)  # route and project (or agent)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_hash: Mapped[str]
    answer: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class ScheduledStart(Base):
    """A start to come. It holds no quota: the agent's row, made when it is due, does."""

    __tablename__ = "scheduled_starts"
    scheduled_start_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.user_id"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.project_id"))
    # As it was asked for; None: the default one of the time when it is due.
    template: Mapped[str | None]
    start_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(server_default="scheduled")
    reason: Mapped[str | None]
    # The agent that it led to; retention may have forgotten that one already.
    agent_id: Mapped[str | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("state IN ('scheduled','starting','started','rejected','cancelled')", name="state"),
        Index("ix_scheduled_starts_user_page", "user_id", "created_at", "scheduled_start_id"),
        Index("ix_scheduled_starts_pending", "start_at", postgresql_where=text(_in(PENDING))),
        Index("ix_scheduled_starts_ended_at", "ended_at"),
    )


class Channel(Base):
    """The socket of one attempt: who holds it, what was heard last. One row, updated often, apart from the agent's."""

    __tablename__ = "channels"
    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.agent_id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(server_default="0")
    replica: Mapped[str | None]
    connected_at: Mapped[datetime | None]
    disconnected_at: Mapped[datetime | None]
    last_seen_at: Mapped[datetime | None]
    last_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    ready_at: Mapped[datetime | None]
    failed_checks: Mapped[int] = mapped_column(server_default="0")
    health: Mapped[dict[str, Any] | None]


class Command(Base):
    __tablename__ = "commands"
    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.agent_id", ondelete="CASCADE"), primary_key=True)
    command_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    # execute | graceful_shutdown
    kind: Mapped[str] = mapped_column(server_default="execute")
    name: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    # pending | sent | done | failed | expired | cancelled
    state: Mapped[str] = mapped_column(server_default="pending")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deadline_at: Mapped[datetime]
    sent_epoch: Mapped[int | None]
    cancel_asked: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    result: Mapped[dict[str, Any] | None]
    fault: Mapped[str | None]
    fault_detail: Mapped[str | None]
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("state IN ('pending','sent','done','failed','expired','cancelled')", name="state"),
        Index("ix_commands_open", "agent_id", "attempt", postgresql_where=text("state IN ('pending','sent')")),
        Index("ix_commands_tasks", "agent_id", postgresql_where=text("kind = 'execute' AND name = 'run_task'")),
        Index(
            "ix_commands_answered",
            "agent_id",
            "attempt",
            "ended_at",
            postgresql_where=text("kind = 'execute' AND state IN ('done','failed','cancelled')"),
        ),
    )


class ArtefactRow(Base):
    """A picture or document of an agent; its bytes are in `artefact_chunks`, so any replica can serve it."""

    __tablename__ = "artefacts"
    artefact_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.agent_id", ondelete="CASCADE"))
    command_id: Mapped[str]
    user_id: Mapped[str]
    content_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    __table_args__ = (UniqueConstraint("agent_id", "command_id"),)


class ArtefactChunk(Base):
    __tablename__ = "artefact_chunks"
    artefact_id: Mapped[str] = mapped_column(ForeignKey("artefacts.artefact_id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Ticket(Base):
    """One use, minutes: lets a browser that cannot send a header open a desktop or an event socket."""

    __tablename__ = "tickets"
    ticket_hash: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]  # desktop | events
    user_id: Mapped[str]
    agent_id: Mapped[str | None]
    attempt: Mapped[int | None]
    mode: Mapped[str | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Replica(Base):
    """API processes and since when each has been up without a gap; an agent's silence counts only in that time."""

    __tablename__ = "replicas"
    replica: Mapped[str] = mapped_column(primary_key=True)
    up_since: Mapped[datetime]
    seen_at: Mapped[datetime]


class LifeStatistic(Base):
    """What a pool's agents came to, for the wait estimate; all of it fades with each departure.

    `weight` counts departures, `minutes` the time in which they and the `arrivals` (by rank of the tier) were counted.
    """

    __tablename__ = "life_statistics"
    pool: Mapped[str] = mapped_column(primary_key=True)
    mean_minutes: Mapped[float] = mapped_column(Float)
    weight: Mapped[float] = mapped_column(Float)
    minutes: Mapped[float] = mapped_column(Float, server_default="0")
    arrivals: Mapped[list[float]] = mapped_column(ARRAY(Float), server_default=text("'{0,0,0,0}'"))
    counted_at: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("weight >= 0", name="weight"),)


class WaitTally(Base):
    """Real waits against what was told, counted at the grant. `bucket` is a histogram's upper bound, or a word."""

    __tablename__ = "wait_tallies"
    pool: Mapped[str] = mapped_column(primary_key=True)
    measure: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    total: Mapped[float] = mapped_column(Float, server_default="0")


class EvictionCredit(Base):
    """A place in line that an evicted user's next request for the project has from the eviction on, for a while."""

    __tablename__ = "eviction_credits"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    evicted_at: Mapped[datetime]
    until: Mapped[datetime] = mapped_column(index=True)


class NoticeChannel(Base):
    """A way out, whether notices are made for it, and what all tries came to since ever, by outcome."""

    __tablename__ = "notice_channels"
    channel: Mapped[str] = mapped_column(primary_key=True)
    open: Mapped[bool] = mapped_column(Boolean)
    outcomes: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


class Notice(Base):
    """The outbox: what is to be told outside, written with the event that it tells of. Its id is its receiver's key."""

    __tablename__ = "notices"
    notice_id: Mapped[str] = mapped_column(primary_key=True)
    channel: Mapped[str]
    kind: Mapped[str]
    user_id: Mapped[str]
    project_id: Mapped[str]
    agent_id: Mapped[str | None]
    # Of an e-mail, the address that its user had in that moment.
    recipient: Mapped[str | None]
    # The rest of the event: at, seq, cursor, state, reason, detail.
    event: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="pending")
    # Tries since `since`, when it was made or replayed: from then on the time runs in which it is tried.
    tries: Mapped[int] = mapped_column(server_default="0")
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # Also how long whoever took it has it: one that is not settled by then is tried again, for that one died.
    next_try_at: Mapped[datetime] = mapped_column(server_default=func.now())
    error: Mapped[str | None]
    error_detail: Mapped[str | None]
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("state IN ('pending','sent','dead')", name="state"),
        Index("ix_notices_pending", "channel", "next_try_at", postgresql_where=text("state = 'pending'")),
        Index("ix_notices_dead", "channel", "created_at", postgresql_where=text("state = 'dead'")),
        Index("ix_notices_page", "created_at", "notice_id"),
        Index("ix_notices_ended_at", "ended_at"),
    )
