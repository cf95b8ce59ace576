"""What the end of a life tells besides why: what it used, and where its user finds the work that it saved."""

from typing import Any

from pydantic.alias_generators import to_camel
from sqlalchemy.ext.asyncio import AsyncSession

from activities.contracts import Usage
from core.db.repositories import artefacts, channels, commands


async def usage_of(
    session: AsyncSession, agent_id: str, held_seconds: float | None, measured: Usage | None
) -> dict[str, Any]:
    """The numbers of all attempts together; what nobody measured is left out. `held_seconds`: with a slot, if ever.

    No less than the attempts said of themselves: whoever clears up behind a run that is gone, or was reset, has
    measured the last one at most.
    """
    usage: dict[str, Any] = {to_camel(name): value for name, value in measured or () if value is not None}
    for name, said in await channels.spent_in_all(session, agent_id):
        if said is not None:
            usage[to_camel(name)] = max(usage.get(to_camel(name), said), said)
    if held_seconds is not None:
        usage["seconds"] = held_seconds
        usage["tasks"] = await commands.tasks_begun(session, agent_id)
    return usage


async def left_behind(session: AsyncSession, agent_id: str) -> dict[str, Any]:
    """`savedWork`: what its last attempts saved, the newest first."""
    saved = await artefacts.saved_work(session, agent_id)
    return {"savedWork": [work.model_dump(by_alias=True) for work in saved]}
