"""How much use shuts a cluster's door, and how much less opens it again. Pure."""

from collections.abc import Mapping, Set
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

# So much lower than its threshold a use must fall before the door opens again, or it would flap. Where the threshold
# itself is tiny, half of it.
OPENS_BELOW = 5.0


class Thresholds(BaseModel):
    """Percentages are the specification's. A use that nobody measures shuts no door."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cpu_percent: float = Field(85, gt=0, le=100)
    memory_percent: float = Field(90, gt=0, le=100)
    disk_percent: float = Field(90, gt=0, le=100)
    network_mbit: float | None = Field(None, gt=0, description="sent and received together, a second; unset: no limit")
    cpu_window_seconds: float = Field(120, gt=0, description="CPU is the mean over so long: a burst shuts no door")


class Measure(StrEnum):
    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    NETWORK = "network"
    NODES = "nodes"


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Load(Value):
    """What is in use; None is not measured. `memory_bytes` is what there is in all."""

    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None
    network_mbit: float | None = None
    memory_bytes: int | None = None
    nodes: int = 1


class Over(Value):
    """One use that shuts the door, as it is and as it may be."""

    measure: Measure
    value: float
    limit: float

    def __str__(self) -> str:
        if self.measure is Measure.NODES:
            return "no machine takes agents now"
        unit = "Mbit/s" if self.measure is Measure.NETWORK else "%"
        return f"{self.measure} {self.value:.0f} {unit} (limit {self.limit:g} {unit})"


class Fit(Value):
    """How many more agents of some templates would find a place: one number, as all ask for the same."""

    templates: tuple[str, ...]
    more: int
    cpu: float
    memory_mib: int


class Look(Value):
    """What one look at a cluster saw, and what it was judged by.

    `too_large`: templates that no machine of it would take even when empty, each with the runtime's sentence.
    `fits`: room by template, where not all of them ask for the same; `seen`: of each, how many agents the look saw.
    """

    agents: int
    load: Load
    limits: Thresholds
    over: tuple[Over, ...] = ()
    too_large: dict[str, str] = {}
    fits: tuple[Fit, ...] = ()
    seen: dict[str, int] = {}

    @property
    def choked(self) -> bool:
        return bool(self.over)

    def stored(self) -> dict[str, Any]:
        # Without what is not told by it, which an older replica would not know.
        none = {name for name in ("fits", "seen") if not getattr(self, name)}
        return self.model_dump(mode="json", by_alias=True, exclude=none)


def look_of(stored: Mapping[str, Any] | None) -> Look | None:
    """A look as it was stored; None when there is none, or one of a version that stored it otherwise.

    What a newer version says beside is left aside.
    """
    try:
        return Look.model_validate({key: stored[key] for key in stored if key in _OF_A_LOOK}) if stored else None
    except ValidationError:
        return None


_OF_A_LOOK = frozenset(name for field in Look.model_fields for name in (field, to_camel(field)))


def measured(load: Load, limits: Thresholds) -> tuple[tuple[Measure, float | None, float | None], ...]:
    """Each measure with its value and its limit; None where nobody knows, or nobody set one."""
    return (
        (Measure.CPU, load.cpu_percent, limits.cpu_percent),
        (Measure.MEMORY, load.memory_percent, limits.memory_percent),
        (Measure.DISK, load.disk_percent, limits.disk_percent),
        (Measure.NETWORK, load.network_mbit, limits.network_mbit),
    )


def over(load: Load, limits: Thresholds, before: Set[Measure] = frozenset()) -> tuple[Over, ...]:
    """What shuts the door now; what shut it `before` does so until it is well below its threshold."""
    found = [
        Over(measure=measure, value=value, limit=limit)
        for measure, value, limit in measured(load, limits)
        if value is not None and limit is not None and value > (opens_at(limit) if measure in before else limit)
    ]
    if load.nodes == 0:
        found.append(Over(measure=Measure.NODES, value=0, limit=1))
    return tuple(found)


def opens_at(limit: float) -> float:
    """Where a use has fallen far enough."""
    return limit - min(OPENS_BELOW, limit / 2)
