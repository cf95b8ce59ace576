"""What a pool and its cluster have, what of it is free, and how much of that is known."""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from core.domain.thresholds import Fit, Look, Measure
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


class Mix(Value):
    """A cluster whose templates do not all ask for the same: what is left of it is another number for each.

    `taken`: of each template, how many hold a slot now, where the look saw `seen`. `total` is how many the cluster
    takes in all, in agents of the usual template: the best that is known for a template the look did not count.
    """

    fits: tuple[Fit, ...]
    seen: Mapping[str, int]
    taken: Mapping[str, int]
    total: int

    def free(self, template: str) -> int:
        """How many more of it find a place; below zero when more came than there was room for.

        Who came since the look takes as many places as it is large, and one at least: it may lie where the only place
        was. Who went makes room for its like alone; for others the next look tells, as it may have been elsewhere.
        """
        mine = self._fit(template)
        if mine is None:
            return self.total - sum(self.taken.values())
        return mine.more - sum(
            number if fit == mine else max(number, 0) * _places(fit, mine) for fit, number in self._came().items()
        )

    def overfull(self, template: str) -> bool:
        """Those that came since the look find no room all together, wherever they may lie: by number or by size."""
        mine, came = self._fit(template), self._came()
        if mine is None:
            return self.free(template) < 0
        new = [(fit, number) for fit, number in came.items() if fit is not None and number > 0]
        # What there was in all is at least what each template by itself would find room for.
        cores = max(fit.more * fit.cpu for fit in self.fits)
        memory = max(fit.more * fit.memory_mib for fit in self.fits)
        return (
            came.get(mine, 0) > mine.more
            or sum(number * fit.cpu for fit, number in new) > cores + 1e-9
            or sum(number * fit.memory_mib for fit, number in new) > memory
        )

    def full(self) -> bool:
        """Nothing that was counted finds a place."""
        return all(self.free(fit.templates[0]) <= 0 for fit in self.fits)

    def with_one(self, template: str) -> "Mix":
        return self.model_copy(update={"taken": {**self.taken, template: self.taken.get(template, 0) + 1}})

    def _came(self) -> dict[Fit | None, int]:
        """How many more of each hold a slot than the look saw; None: of templates that it did not count."""
        found: dict[Fit | None, int] = {}
        for name in self.taken.keys() | self.seen.keys():
            fit = self._fit(name)
            found[fit] = found.get(fit, 0) + self.taken.get(name, 0) - self.seen.get(name, 0)
        return found

    def _fit(self, template: str) -> Fit | None:
        return next((fit for fit in self.fits if template in fit.templates), None)


def _places(theirs: Fit | None, mine: Fit) -> int:
    """How many places of `mine` one of `theirs` may take; one that was not counted: one."""
    if theirs is None:
        return 1
    return max(1, math.ceil(max(theirs.cpu / mine.cpu, theirs.memory_mib / mine.memory_mib) - 1e-9))


class Room(Value):
    """What the pool and its cluster have. `None` stands for unknown, which never counts as free."""

    holders: int
    waiting: int
    capacity: int | None
    # Agents of `template`.
    cluster_free: int | None
    # The one that is asked for, else the pool's own.
    template: str = ""
    # The capacity is what the pool was given, not what its cluster has.
    bounded: bool = True
    paused: bool = False
    choked: bool = False
    # An agent of the pool was found to have no machine, and nothing has come free since.
    refused: bool = False
    # Whoever is first in line asks for more than is free, and nobody goes before it.
    held_up: bool = False
    snapshot: Snapshot = Snapshot.FRESH
    look: Look | None = None
    # None: all templates ask for the same, or nobody knows better.
    mix: Mix | None = None
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
    if room.snapshot is not Snapshot.FRESH or room.cluster_free is None:
        return False
    return room.cluster_free < 0 if room.mix is None else room.mix.overfull(room.template)


def free_slots(room: Room) -> int:
    """How many more agents the pool has a place for, whenever they may start."""
    if not room.open or room.refused or room.capacity is None or room.cluster_free is None:
        return 0
    return max(0, min(room.capacity - room.holders, room.cluster_free))


def grantable_slots(room: Room) -> int:
    """How many waiting agents may be granted a slot now, all of them asking for the same."""
    free = free_slots(room)
    return free if room.starts_left is None else min(free, room.starts_left)


def line_slots(room: Room, most: int) -> int:
    """How many of the line, and `most`, may be granted a slot now if they ask for little enough."""
    if room.mix is None:
        return min(grantable_slots(room), most)
    if not room.open or room.refused or room.mix.full():
        return 0
    own = room.capacity - room.holders if room.bounded and room.capacity is not None else most
    return max(0, min(own, most if room.starts_left is None else room.starts_left, most))


def fitting(room: Room, templates: Sequence[str]) -> int:
    """How many of those that are next in order, of these templates, find a place.

    The first that does not holds up all behind it: nobody goes first by asking for less. One that no machine could
    ever run holds up nobody: it is let in, to be told so.
    """
    mix, hopeless = room.mix, room.look.too_large if room.look is not None else {}
    if mix is None:
        return len(templates)
    for place, template in enumerate(templates):
        if template in hopeless:
            continue
        if mix.free(template) <= 0:
            return place
        mix = mix.with_one(template)
    return len(templates)
