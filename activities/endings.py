"""What the end of a life tells besides why: what it used, and where its user finds the work that it saved."""

from datetime import datetime
from typing import Any

from pydantic.alias_generators import to_camel
from sqlalchemy.ext.asyncio import AsyncSession

from activities.contracts import Usage
from core.db.models import Agent
from core.db.repositories import artefacts, commands, moves


async def usage_of(session: AsyncSession, row: Agent, measured: Usage | None, at: datetime) -> dict[str, Any]:
    """The numbers of all attempts together; what nobody measured is left out. Of one that held no slot, nothing."""
    usage: dict[str, Any] = {to_camel(name): value for name, value in measured or () if value is not None}
    if row.started_at is not None or row.usage:
        # The whole life, from the slot on: every attempt has a start of its own.
        usage["seconds"] = moves.held_seconds(row, at)
        usage["tasks"] = await commands.tasks_begun(session, row.agent_id)
    return usage


async def left_behind(session: AsyncSession, agent_id: str) -> dict[str, Any]:
    """`savedWork`, where an attempt saved something."""
    saved = await artefacts.saved_work(session, agent_id)
    return {} if saved is None else {"savedWork": saved.model_dump(by_alias=True)}
