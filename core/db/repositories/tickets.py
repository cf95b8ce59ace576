"""One-use tickets: let a browser that cannot send a header open a desktop or an event socket. Kept hashed."""

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, SecretStr
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Ticket
from core.errors import Busy
from core.tokens import hash_token, new_token

# A page that reconnects in a loop takes one each time; more than this a user is a fault.
MOST_OPEN = 200


class TicketKind(StrEnum):
    DESKTOP = "desktop"
    EVENTS = "events"


class TicketGrant(BaseModel):
    """What a ticket stands for. `agent_id`, `attempt` and `mode` belong to desktops."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: TicketKind
    user_id: str
    agent_id: str | None = None
    attempt: int | None = None
    mode: str | None = None


async def issue(session: AsyncSession, grant: TicketGrant, now: datetime, lifetime: timedelta) -> SecretStr:
    """A fresh ticket for `grant`. Raises `Busy` when the user holds too many unused ones."""
    open_tickets = select(func.count()).where(Ticket.user_id == grant.user_id, Ticket.expires_at > now)
    if (await session.scalar(open_tickets) or 0) >= MOST_OPEN:
        raise Busy("too many unused tickets", retry_after=60)
    ticket = new_token("tk")
    values = grant.model_dump(mode="json")
    await session.execute(
        insert(Ticket).values(ticket_hash=hash_token(ticket.get_secret_value()), expires_at=now + lifetime, **values)
    )
    return ticket


async def consume(session: AsyncSession, ticket: str, kind: TicketKind, now: datetime) -> TicketGrant | None:
    """Use the ticket up; None when it is unknown, used, expired or of another kind. Never works twice."""
    used = delete(Ticket).where(Ticket.ticket_hash == hash_token(ticket), Ticket.kind == kind.value)
    row = (
        await session.execute(
            used.returning(Ticket.user_id, Ticket.agent_id, Ticket.attempt, Ticket.mode, Ticket.expires_at)
        )
    ).one_or_none()
    if row is None or row.expires_at <= now:
        return None
    return TicketGrant(kind=kind, user_id=row.user_id, agent_id=row.agent_id, attempt=row.attempt, mode=row.mode)


async def revoke(session: AsyncSession, agent_id: str) -> None:
    """None of an agent's tickets opens anything any more."""
    await session.execute(delete(Ticket).where(Ticket.agent_id == agent_id))


async def purge(session: AsyncSession, now: datetime) -> None:
    await session.execute(delete(Ticket).where(Ticket.expires_at <= now))
