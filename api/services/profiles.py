"""A browser profile belongs to user and project and outlives agents; it goes when its user says so."""

import asyncio

import structlog

from api.auth import Identity
from api.deps import Deps
from core.db.repositories import agents, projects
from core.errors import Conflict, NotFound, RuntimeFault, RuntimeRetryable, Unavailable

log = structlog.get_logger()
_RUNTIME_SECONDS = 15


async def forget(deps: Deps, who: Identity, project_id: str) -> None:
    """Delete the profile wherever it may lie.

    Raises `NotFound`, `Conflict` (`agent_lives`) while an agent has it open, `Unavailable` (`runtime_unavailable`).
    """
    async with deps.acting(who) as (session, _):
        if not await projects.has_trace(session, project_id, who.user_id):
            raise NotFound("you have no such project")
        living = await agents.current(session, who.user_id, project_id)
    if living is not None:
        raise _in_use(living.state.value)
    for name, runtime in deps.runtimes.items():
        try:
            async with asyncio.timeout(_RUNTIME_SECONDS):
                await runtime.delete_profile(who.user_id, project_id)
        except (RuntimeFault, TimeoutError) as error:
            await _explain(deps, who, project_id, error)
            log.warning("profile.not_forgotten", runtime=name, user_id=who.user_id, kind=type(error).__name__)
            raise Unavailable("the profile cannot be reached right now", code="runtime_unavailable") from error


async def _explain(deps: Deps, who: Identity, project_id: str, error: Exception) -> None:
    """A runtime refuses for an agent that was started meanwhile: say so rather than `unavailable`."""
    if not isinstance(error, RuntimeRetryable):
        return
    async with deps.acting(who) as (session, _):
        living = await agents.current(session, who.user_id, project_id)
    if living is not None:
        raise _in_use(living.state.value) from error


def _in_use(state: str) -> Conflict:
    return Conflict("an agent of this project has the profile open", code="agent_lives", action="stop_it", state=state)
