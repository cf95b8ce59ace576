"""May this user have one, is there room: the decision, with the numbers it was made from.

Order of the checks is the specification's matrix: business rule, then hardware, then place.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum

from core.domain.room import Room
from core.domain.templates import Pool
from core.domain.thresholds import Look, Measure
from core.domain.tiers import Tier, TierLimits
from core.domain.value import Value

Numbers = dict[str, int | float | str | bool | None]


class RejectReason(StrEnum):
    MAX_AGENTS = "max_agents_exceeded"
    MAX_PROJECT_AGENTS = "max_project_agents_exceeded"
    TOO_LARGE = "never_satisfiable"
    SUBSCRIPTION = "subscription_inactive"
    QUEUE_FULL = "queue_full"
    UNKNOWN_TEMPLATE = "unknown_template"
    # Of a worker whose settings are not those of the API that asked.
    UNKNOWN_POOL = "unknown_pool"


class QueueReason(StrEnum):
    CHOKED = "insufficient_cluster_resources"
    DISK = "disk_emergency"
    NO_NODE = "no_suitable_node"
    AHEAD = "queue_ahead"
    PAUSED = "pool_paused"
    PREVIOUS_ENDING = "previous_ending"
    STARTING = "too_many_starting"


class Rules(Value):
    """What a registration is decided by, from the settings."""

    limits: TierLimits
    max_waiting: int
    lifespan_minutes: float = 45
    # What one tier is worth in waiting; None: whoever is of a higher tier goes first, however long others wait.
    ageing: timedelta | None = None
    max_project_agents: int | None = None
    pools: Mapping[str, Pool] = {}


class Standing(Value):
    """What the user has. `living` counts all agents that are not over, `ending` those of them that are draining."""

    tier: Tier
    limit: int
    living: int
    ending: int
    subscription_active: bool
    # An agent of the same project is draining: its profile has one writer at a time.
    same_project_ending: bool = False
    # What the project may have, and has from all its members, those that are draining left out; None: no limit.
    project_limit: int | None = None
    project_living: int = 0


class Create(Value):
    pass


class Queue(Value):
    reason: QueueReason


class Reject(Value):
    reason: RejectReason
    action: str | None = None


Decision = Create | Queue | Reject


class Check(StrEnum):
    """What is looked at, in this order."""

    SUBSCRIPTION = "subscription_active"
    LIMIT = "below_your_limit"
    PROJECT = "below_project_limit"
    TEMPLATE = "template_fits"
    PREVIOUS = "previous_agent_gone"
    POOL = "pool_open"
    CLUSTER = "cluster_not_choked"
    LINE = "nobody_ahead"
    ROOM = "room_in_pool"
    STARTS = "starts_below_limit"
    QUEUE = "queue_not_full"


class Examined(Value):
    """One check, the numbers it was made with, and what follows when it is the first that does not pass."""

    check: Check
    passed: bool
    numbers: Numbers
    otherwise: Queue | Reject


def decide(standing: Standing, room: Room) -> Decision:
    return conclude(examine(standing, room))


def examine(standing: Standing, room: Room) -> tuple[Examined, ...]:
    """Every check with its numbers, in the order in which they decide."""
    current = standing.living - standing.ending
    known = room.cluster_free is not None and room.capacity is not None
    return (
        Examined(
            check=Check.SUBSCRIPTION,
            passed=standing.subscription_active,
            numbers={"tier": standing.tier.value},
            otherwise=Reject(reason=RejectReason.SUBSCRIPTION, action="renew_subscription"),
        ),
        Examined(
            check=Check.LIMIT,
            passed=current < standing.limit,
            numbers={"limit": standing.limit, "used": current},
            otherwise=Reject(reason=RejectReason.MAX_AGENTS, action="upgrade_subscription"),
        ),
        Examined(
            check=Check.PROJECT,
            passed=standing.project_limit is None or standing.project_living < standing.project_limit,
            numbers={"limit": standing.project_limit, "used": standing.project_living},
            otherwise=Reject(reason=RejectReason.MAX_PROJECT_AGENTS, action="retry_later"),
        ),
        Examined(
            check=Check.TEMPLATE,
            passed=room.too_large is None,
            numbers={} if room.too_large is None else {"detail": room.too_large},
            otherwise=Reject(reason=RejectReason.TOO_LARGE, action="choose_smaller_template"),
        ),
        Examined(
            check=Check.PREVIOUS,
            passed=not standing.same_project_ending and (not standing.ending or standing.living < standing.limit),
            numbers={"ending": standing.ending},
            otherwise=Queue(reason=QueueReason.PREVIOUS_ENDING),
        ),
        Examined(
            check=Check.POOL,
            passed=not room.paused,
            numbers={"paused": room.paused},
            otherwise=Queue(reason=QueueReason.PAUSED),
        ),
        Examined(
            check=Check.CLUSTER,
            passed=known and not room.choked,
            numbers={"known": known, "choked": room.choked, "snapshot": room.snapshot.value, **_use(room.look)},
            otherwise=Queue(reason=_pressed(room)),
        ),
        Examined(
            check=Check.LINE,
            passed=room.waiting == 0,
            numbers={"waiting": room.waiting},
            otherwise=Queue(reason=QueueReason.AHEAD),
        ),
        Examined(
            check=Check.ROOM,
            passed=known and room.holders < (room.capacity or 0) and (room.cluster_free or 0) > 0 and not room.refused,
            numbers={
                "holders": room.holders,
                "capacity": room.capacity,
                "clusterFree": room.cluster_free,
                **({"refused": True} if room.refused else {}),
            },
            otherwise=Queue(reason=QueueReason.NO_NODE),
        ),
        Examined(
            check=Check.STARTS,
            passed=room.starts_left is None or room.starts_left > 0,
            numbers=_starting(room),
            otherwise=Queue(reason=QueueReason.STARTING),
        ),
        Examined(
            check=Check.QUEUE,
            passed=room.waiting < room.max_waiting,
            numbers={"waiting": room.waiting, "max": room.max_waiting},
            otherwise=Reject(reason=RejectReason.QUEUE_FULL, action="retry_later"),
        ),
    )


def _use(look: Look | None) -> Numbers:
    """The look's numbers beside what they are held against. Network is told of only where somebody measures it."""
    if look is None:
        return {}
    load, limits = look.load, look.limits
    numbers: Numbers = {
        "cpuPercent": _rounded(load.cpu_percent),
        "cpuLimit": limits.cpu_percent,
        "memoryPercent": _rounded(load.memory_percent),
        "memoryLimit": limits.memory_percent,
        "diskPercent": _rounded(load.disk_percent),
        "diskLimit": limits.disk_percent,
        "nodes": load.nodes,
    }
    if load.network_mbit is not None:
        numbers |= {"networkMbit": _rounded(load.network_mbit), "networkLimit": limits.network_mbit}
    if look.over:
        numbers["over"] = ", ".join(str(each) for each in look.over)
    return numbers


def _starting(room: Room) -> Numbers:
    """The limits that are set, with what counts against each."""
    pool, cluster = room.starts, room.starts_in_cluster
    numbers: Numbers = {}
    if pool.most is not None:
        numbers |= {"starting": pool.now, "maxStarting": pool.most}
    if cluster.most is not None:
        numbers |= {"startingInCluster": cluster.now, "maxStartingInCluster": cluster.most}
    return numbers


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def conclude(examined: tuple[Examined, ...]) -> Decision:
    """What the first check that did not pass leads to. How long the queue is matters only to who has to join it."""
    found = deciding(examined)
    return Create() if found is None else found.otherwise


def deciding(examined: tuple[Examined, ...]) -> Examined | None:
    """The check that the decision follows from; None when all that matters passed."""
    failed = [each for each in examined if not each.passed]
    first = next((each for each in failed if each.check is not Check.QUEUE), None)
    if first is None or isinstance(first.otherwise, Reject):
        return first
    return next((each for each in failed if each.check is Check.QUEUE), first)


def closed_by(room: Room) -> QueueReason | None:
    """Why nobody is let in, whatever is free; None while the door is open."""
    if room.paused:
        return QueueReason.PAUSED
    return None if room.open else _pressed(room)


def _pressed(room: Room) -> QueueReason:
    """What a cluster that takes nobody is short of."""
    return QueueReason.DISK if room.over(Measure.DISK) else QueueReason.CHOKED
