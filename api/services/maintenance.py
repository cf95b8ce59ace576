"""An administrator has a pool or a machine emptied, now or at a time to come."""

from datetime import timedelta

from api.auth import Identity
from api.deps import Deps
from api.schemas.maintenance import MaintenanceBody, MaintenancePost
from core.domain.orders import MaintenanceOrder
from core.domain.schedule import Later, Now, TooFar, when
from core.errors import InvalidRequest, NotFound
from core.ids import new_maintenance_id
from core.settings import Settings


async def order(deps: Deps, who: Identity, body: MaintenancePost) -> MaintenanceBody:
    """See that whoever lives there is warned in time. Raises `NotFound` for a pool that the settings do not have.

    Also `InvalidRequest` (`starts_at_too_far`). Whether a machine of that name is there, only its runtime knows.
    """
    async with deps.acting(who):
        now = deps.clock()
    if body.pool is not None and body.pool not in deps.settings.all_pools():
        raise NotFound("there is no such pool")
    match when(body.starts_at, now):
        case Now() | Later():
            pass
        case TooFar(latest=latest):
            raise InvalidRequest(
                "a maintenance is ordered at most 30 days ahead", code="starts_at_too_far", latest=latest.isoformat()
            )
    warn_at = now if body.starts_at is None else max(now, body.starts_at - _longest_way(deps.settings))
    asked = MaintenanceOrder(
        pool=body.pool, node=body.node, starts_at=body.starts_at, warn_at=warn_at, detail=body.reason or ""
    )
    maintenance_id = new_maintenance_id()
    warned = await deps.lives.maintain(maintenance_id, asked)
    return MaintenanceBody(
        maintenance_id=maintenance_id,
        pool=body.pool,
        node=body.node,
        starts_at=body.starts_at,
        warns_at=warn_at,
        warned=warned,
        reason=body.reason,
    )


def _longest_way(settings: Settings) -> timedelta:
    """So long before it begins all are told: nobody gets less grace than a template promises, and all are gone then."""
    timings = [settings.timings, *(each.timings for each in settings.templates.values() if each.timings is not None)]
    return timedelta(seconds=max(each.grace_seconds + each.leaving_seconds for each in timings))
