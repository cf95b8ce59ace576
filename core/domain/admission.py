"""May this user have one, is there room: the decision, with the numbers it was made from.

Order of the checks is the specification's matrix: business rule, then hardware, then place.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from core.domain.tiers import Tier


class RejectReason(StrEnum):
    MAX_AGENTS = "max_agents_exceeded"
    SUBSCRIPTION = "subscription_inactive"
    QUEUE_FULL = "queue_full"
    UNKNOWN_TEMPLATE = "unknown_template"


class QueueReason(StrEnum):
    CHOKED = "insufficient_cluster_resources"
    NO_NODE = "no_suitable_node"
    AHEAD = "queue_ahead"
    PAUSED = "pool_paused"
    PREVIOUS_ENDING = "previous_ending"


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Standing(Value):
    """What the user has. `living` counts all agents that are not over, `ending` those of them that are draining."""

    tier: Tier
    limit: int
    living: int
    ending: int
    subscription_active: bool
    # An agent of the same project is draining: its profile has one writer at a time.
    same_project_ending: bool = False


class Room(Value):
    """What the pool and its cluster have. `None` stands for unknown, which never counts as free."""

    holders: int
    waiting: int
    capacity: int | None
    cluster_free: int | None
    paused: bool = False
    choked: bool = False
    max_waiting: int


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
    PREVIOUS = "previous_agent_gone"
    POOL = "pool_open"
    CLUSTER = "cluster_not_choked"
    LINE = "nobody_ahead"
    ROOM = "room_in_pool"
    QUEUE = "queue_not_full"


class Examined(Value):
    """One check, the numbers it was made with, and what follows when it is the first that does not pass."""

    check: Check
    passed: bool
    numbers: dict[str, int | str | bool | None]
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
            check=Check.PREVIOUS,
            passed=not standing.same_project_ending and standing.living < standing.limit,
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
            numbers={"known": known, "choked": room.choked},
            otherwise=Queue(reason=QueueReason.CHOKED),
        ),
        Examined(
            check=Check.LINE,
            passed=room.waiting == 0,
            numbers={"waiting": room.waiting},
            otherwise=Queue(reason=QueueReason.AHEAD),
        ),
        Examined(
            check=Check.ROOM,
            passed=known and room.holders < (room.capacity or 0) and (room.cluster_free or 0) > 0,
            numbers={"holders": room.holders, "capacity": room.capacity, "clusterFree": room.cluster_free},
            otherwise=Queue(reason=QueueReason.NO_NODE),
        ),
        Examined(
            check=Check.QUEUE,
            passed=room.waiting < room.max_waiting,
            numbers={"waiting": room.waiting, "max": room.max_waiting},
            otherwise=Reject(reason=RejectReason.QUEUE_FULL, action="retry_later"),
        ),
    )


def conclude(examined: tuple[Examined, ...]) -> Decision:
    """What the first check that did not pass leads to. How long the queue is matters only to who has to join it."""
    failed = [each for each in examined if not each.passed]
    first = next((each for each in failed if each.check is not Check.QUEUE), None)
    if first is None:
        return Create()
    if isinstance(first.otherwise, Reject):
        return first.otherwise
    return next((each.otherwise for each in failed if each.check is Check.QUEUE), first.otherwise)


def free_slots(room: Room) -> int:
    """How many waiting agents may be granted a slot now."""
    if room.paused or room.choked or room.capacity is None or room.cluster_free is None:
        return 0
    return max(0, min(room.capacity - room.holders, room.cluster_free))
