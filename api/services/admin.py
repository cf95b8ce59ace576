"""What administrators order: who may have agents, whose agents end, how much a pool takes."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from api.auth import Identity
from api.deps import Deps
from api.schemas.admin import CapacityFrom, MeasureBody, PoolBody, PoolPut, ReportBody, TerminateBody, UserPut
from api.services.orders import wrong_state
from core.db.repositories import agents, channels, clusters, ordering, overrides, projects, queue, users
from core.db.repositories.agents import AgentView
from core.db.repositories.users import UserRecord
from core.domain.lifecycle import KEEPABLE, EndReason
from core.domain.orders import AbandonOrder, StopOrder
from core.domain.thresholds import Look, measured
from core.domain.wire import Health
from core.errors import NotFound

# An administrator's stop is not its user's to take back, and only an eviction is owed a place in line: with such words
# it is an operator's, and they are its detail.
_REASONS = frozenset(EndReason) - KEEPABLE - {EndReason.RESOURCE_PRESSURE}


async def put_user(deps: Deps, who: Identity, user_id: str, body: UserPut) -> UserRecord:
    """Make or change a user; when the subscription is over then, order all of that user's agents to drain.

    With another tier, those that wait take their places anew, and their queues look who may go now.
    """
    given: dict[str, Any] = body.model_dump(include=body.model_fields_set)
    if "tier" in given:
        given["tier"] = body.tier.value
    reordered: list[str] = []
    async with deps.acting(who) as (session, _):
        if "tier" in given:
            reordered = await ordering.change_tier(session, user_id, body.tier, deps.settings.queue.ageing)
        record = await users.put(session, user_id, **given)
        ending = [] if record.subscribed(deps.clock()) else await users.living_ids(session, user_id)
    for pool in reordered:
        await deps.lives.wake_pool(pool)
    await _drain(deps, who, ending, EndReason.SUBSCRIPTION_EXPIRED)
    return record


async def put_project(deps: Deps, who: Identity, project_id: str, members: Sequence[str]) -> list[str]:
    """Set who belongs to a project; agents there of anyone else drain. Raises `InvalidRequest` for unknown users."""
    async with deps.acting(who) as (session, _):
        await projects.put_members(session, project_id, members)
        ending = await projects.agents_of_strangers(session, project_id)
    await _drain(deps, who, ending, EndReason.USER_LEFT)
    return sorted(set(members))


async def _drain(deps: Deps, who: Identity, agent_ids: Sequence[str], reason: EndReason) -> None:
    # After the commit: if Temporal is away now, the same request again finds the same agents still living.
    for agent_id in agent_ids:
        async with deps.acting(who) as (session, _):
            view = await agents.get(session, agent_id)
        if view is not None and not view.over:
            await deps.lives.stop(view, StopOrder(agent_id=agent_id, reason=reason.value))


async def terminate(deps: Deps, who: Identity, agent_id: str, body: TerminateBody) -> AgentView:
    """Stop anyone's agent. Raises `NotFound`, or `Conflict` (`wrong_state`) when its life is over."""
    view = await anyones(deps, who, agent_id)
    if view.over:
        raise wrong_state(view, "its life is over")
    known = body.reason in _REASONS
    reason, detail = (body.reason, "") if known else (EndReason.OPERATOR.value, body.reason)
    if body.abandon:
        # Its template, or its times, may be in the settings no more, and nothing is waited for any more either.
        await deps.lives.abandon(view, AbandonOrder(reason=reason, detail=detail), deps.settings.timings)
    else:
        order = StopOrder(
            agent_id=agent_id, reason=reason, grace_seconds=body.grace_seconds, force=body.force, detail=detail
        )
        await deps.lives.stop(view, order)
    return await anyones(deps, who, agent_id)


async def anyones(deps: Deps, who: Identity, agent_id: str) -> AgentView:
    """Whosever agent it is. Raises `NotFound`."""
    async with deps.acting(who) as (session, _):
        view = await agents.get(session, agent_id)
        if view is None:
            raise NotFound("there is no such agent")
        return await queue.with_wait(session, view, deps.settings.rules())


async def report(deps: Deps, who: Identity, agent_id: str) -> ReportBody:
    """Raises `NotFound`, with code `no_report` when the agent has told nothing yet that makes sense."""
    async with deps.acting(who) as (session, _):
        if await agents.get(session, agent_id) is None:
            raise NotFound("there is no such agent")
        found = await channels.last_report(session, agent_id)
    if not found or channels.REPORTED_AT not in found:
        raise NotFound("the agent has not reported yet", code="no_report")
    try:
        health = Health.model_validate(found)
    except ValidationError:
        # An older version kept whatever numbers it was told.
        raise NotFound("what the agent reported last cannot be read", code="no_report") from None
    return ReportBody(
        at=found[channels.REPORTED_AT],
        status=health.status,
        detail=health.detail,
        uptime_seconds=health.uptime,
        memory_bytes=health.memory,
        network_mbit=found[channels.BANDWIDTH],
        browser_active=health.browser_active,
        task_running=health.task_running,
        viewers=health.viewers,
    )


async def pools(deps: Deps, who: Identity) -> list[PoolBody]:
    return [await pool_status(deps, who, name) for name in sorted(deps.settings.all_pools())]


async def pool_status(deps: Deps, who: Identity, name: str) -> PoolBody:
    """One look at a pool. Raises `NotFound` for a pool that the settings do not have."""
    pool = deps.settings.all_pools().get(name)
    if pool is None:
        raise NotFound("there is no such pool")
    async with deps.acting(who) as (session, _):
        room = await clusters.room(session, name, pool, deps.clock(), deps.settings.queue.max)
        override = await overrides.of_pool(session, name)
    if override is not None and override.capacity is not None:
        source = CapacityFrom.OPERATOR
    elif pool.capacity is not None:
        source = CapacityFrom.SETTINGS
    else:
        source = CapacityFrom.UNKNOWN if room.capacity is None else CapacityFrom.CLUSTER
    return PoolBody(
        pool=name,
        template=pool.template,
        runtime=pool.runtime,
        cluster=pool.cluster,
        capacity=room.capacity,
        capacity_from=source,
        cluster_free=room.cluster_free,
        holders=room.holders,
        over_capacity=max(room.holders - room.capacity, 0) if room.capacity is not None else 0,
        waiting=room.waiting,
        starting=room.starts.now,
        max_starting=room.starts_at_once,
        starts_left=room.starts_left,
        paused=room.paused,
        choked=room.choked,
        refused=room.refused,
        snapshot=room.snapshot,
        measures=_measures(room.look),
        nodes=room.look.load.nodes if room.look is not None else None,
    )


def _measures(look: Look | None) -> list[MeasureBody]:
    if look is None:
        return []
    over = {each.measure for each in look.over}
    return [
        MeasureBody(measure=measure, value=value, limit=limit, over=measure in over)
        for measure, value, limit in measured(look.load, look.limits)
    ]


async def put_pool(deps: Deps, who: Identity, name: str, body: PoolPut) -> PoolBody:
    """Change a pool while it runs, and let its queue look again."""
    await pool_status(deps, who, name)
    async with deps.acting(who) as (session, _):
        await overrides.change(session, name, capacity=body.capacity, paused=body.paused)
        if "capacity" in body.model_fields_set and body.capacity is None:
            await overrides.forget_capacity(session, name)
    await deps.lives.wake_pool(name)
    return await pool_status(deps, who, name)
