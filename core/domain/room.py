"""What a pool and its cluster have, what of it is free, and how much of that is known."""

from enum import StrEnum

from core.domain.thresholds import Look, Measure
from core.domain.value import Value


class Snapshot(StrEnum):
    """How much is known of the cluster now. Only what is fresh may count as free."""

    FRESH = "fresh"
    STALE = "stale"
    UNKNOWN = "unknown"


class Starts(Value):
    """Agents that are starting, of a pool or of all pools of its cluster, and how many may at once; None: any number.

    Of a cluster the limit is so many a machine. Attempts after the first count too, but wait for nobody: they hold
    their slot already.
    """

    now: int = 0
    most: int | None = None

    @property
    def left(self) -> int | None:
        return None if self.most is None else max(self.most - self.now, 0)


class Room(Value):
    """What the pool and its cluster have. `None` stands for unknown, which never counts as free."""

    holders: int
    waiting: int
    capacity: int | None
    cluster_free: int | None
    paused: bool = False
    choked: bool = False
    # An agent of the pool was found to have no machine, and nothing has come free since.
    refused: bool = False
    snapshot: Snapshot = Snapshot.FRESH
    look: Look | None = None
    max_waiting: int
    starts: Starts = Starts()
    starts_in_cluster: Starts = Starts()
    # Why no machine would take the template that is asked for, were it empty; None: one would, or nobody knows.
    too_large: str | None = None

    @property
    def starts_left(self) -> int | None:
        """How many more may start now, whatever is free; None: any number."""
        return min((each for each in (self.starts.left, self.starts_in_cluster.left) if each is not None), default=None)

    @property
    def starts_at_once(self) -> int | None:
        return min((each.most for each in (self.starts, self.starts_in_cluster) if each.most is not None), default=None)

    @property
    def open(self) -> bool:
        """Somebody could be let in, were there a place."""
        known = self.capacity is not None and self.cluster_free is not None
        return known and not self.paused and not self.choked

    def over(self, measure: Measure) -> bool:
        return self.look is not None and any(each.measure is measure for each in self.look.over)


def overfull(room: Room) -> bool:
    """More hold a slot than the cluster has places for: of those that have no machine now, not all will find one."""
    fresh = room.snapshot is Snapshot.FRESH
    return fresh and room.cluster_free is not None and room.cluster_free < 0


def free_slots(room: Room) -> int:
    """How many more agents the pool has a place for, whenever they may start."""
    if not room.open or room.refused or room.capacity is None or room.cluster_free is None:
        return 0
    return max(0, min(room.capacity - room.holders, room.cluster_free))


def grantable_slots(room: Room) -> int:
    """How many waiting agents may be granted a slot now."""
    free = free_slots(room)
    return free if room.starts_left is None else min(free, room.starts_left)
