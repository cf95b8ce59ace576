"""A browser profile belongs to user and project and outlives agents; it goes when its user says so."""

import asyncio

import structlog

from api.auth import Identity
from api.deps import Deps
from core.db.repositories import agents, projects
from core.errors import Conflict, NotFound, RuntimeFault, RuntimePermanent, RuntimeRetryable, Unavailable

log = structlog.get_logger()
_RUNTIME_SECONDS = 15


async def forget(deps: Deps, who: Identity, project_id: str) -> None:
    """Delete the profile wherever it may lie: at the runtimes of the pools, and at those that its agents lived on.

    All of them are asked, in the order of their names, also when one does not answer; asked again, what is gone stays
    gone. Raises `NotFound`, `Conflict` (`agent_lives`) while an agent has it open, `Unavailable`
    (`runtime_unavailable`) when any of them failed.
    """
    async with deps.acting(who) as (session, _):
        if not await projects.has_trace(session, project_id, who.user_id):
            raise NotFound("you have no such project")
        living = await agents.current(session, who.user_id, project_id)
        lived_on = await projects.runtimes_of(session, project_id, who.user_id)
    if living is not None:
        raise _in_use(living.state.value)
    # Never all that there are: a runtime that nobody set up here (no host supervisor, no cluster) always fails.
    configured = {pool.runtime for pool in deps.settings.all_pools().values()}
    failures = [await _forget_at(deps, name, who.user_id, project_id) for name in sorted(configured | lived_on)]
    errors = [error for error in failures if error is not None]
    for error in errors:
        await _explain(deps, who, project_id, error)
    if errors:
        raise Unavailable("the profile cannot be reached right now", code="runtime_unavailable") from errors[0]


async def _forget_at(deps: Deps, name: str, user_id: str, project_id: str) -> RuntimeFault | TimeoutError | None:
    """What kept the runtime from doing it; None when it is done."""
    try:
        if name not in deps.runtimes:
            raise RuntimePermanent(f"this API has no way to the runtime {name!r}")
        async with asyncio.timeout(_RUNTIME_SECONDS):
            await deps.runtimes[name].delete_profile(user_id, project_id)
    except (RuntimeFault, TimeoutError) as error:
        log.warning("profile.not_forgotten", runtime=name, user_id=user_id, kind=type(error).__name__)
        return error
    return None


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
