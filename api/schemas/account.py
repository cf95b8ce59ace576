"""The caller: who it is, what it may have, and the tickets it takes."""

from datetime import datetime

from pydantic import Field

from api.auth import Role
from api.schemas.agents import AgentBody
from api.schemas.base import EXAMPLE_TIME, Answered
from core.domain.tiers import Tier


class MeBody(Answered):
    """`limit` is how many agents the tier allows at once, `used` how many count against it now."""

    user_id: str = Field(examples=["ada"])
    email: str | None = None
    role: Role
    tier: Tier
    limit: int
    used: int
    subscription_active_until: datetime | None = Field(None, examples=[EXAMPLE_TIME], description="null: no end")
    projects: list[str] = Field(examples=[["shop"]])


class QueueBody(Answered):
    """The caller's own waiting agents, the next one first."""

    items: list[AgentBody]


class TicketBody(Answered):
    """One use, one minute: for a browser's WebSocket, which cannot send a header."""

    ticket: str
    expires_at: datetime = Field(examples=[EXAMPLE_TIME])


class ForgottenBody(Answered):
    project_id: str = Field(examples=["shop"])
