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


def decide(standing: Standing, room: Room) -> Decision:
    if not standing.subscription_active:
        return Reject(reason=RejectReason.SUBSCRIPTION, action="renew_subscription")
    if standing.living - standing.ending >= standing.limit:
        return Reject(reason=RejectReason.MAX_AGENTS, action="upgrade_subscription")
    waits = _wait_reason(standing, room)
    if waits is None:
        return Create()
    if room.waiting >= room.max_waiting:
        return Reject(reason=RejectReason.QUEUE_FULL, action="retry_later")
    return Queue(reason=waits)


def _wait_reason(standing: Standing, room: Room) -> QueueReason | None:
    if standing.same_project_ending or standing.living >= standing.limit:
        return QueueReason.PREVIOUS_ENDING
    if room.paused:
        return QueueReason.PAUSED
    if room.choked or room.cluster_free is None or room.capacity is None:
        return QueueReason.CHOKED
    if room.waiting:
        return QueueReason.AHEAD
    if room.holders >= room.capacity or room.cluster_free <= 0:
        return QueueReason.NO_NODE
    return None


def free_slots(room: Room) -> int:
    """How many waiting agents may be granted a slot now."""
    if room.paused or room.choked or room.capacity is None or room.cluster_free is None:
        return 0
    return max(0, min(room.capacity - room.holders, room.cluster_free))
