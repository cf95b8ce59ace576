"""How large a running agent may be: its limits, as people and Kubernetes write them, and which of them make sense."""

import math
import re

from pydantic import BaseModel, ConfigDict, Field

from core.domain.templates import MIB, Resources

CORES = r"^[0-9]{1,6}(\.[0-9]{1,3})?$|^[0-9]{1,9}m$"
BYTES = r"^[0-9]{1,15}(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$"
# More than any machine has, and no more than a row holds: what cannot be written would be tried again for ever.
MOST_CORES, MOST_MIB = 1_000_000, 1_000_000_000
_UNITS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


class Size(BaseModel):
    """The limits of an agent: cores, and memory in MiB. What it is placed by, its requests, is the template's alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cpu: float = Field(gt=0, le=MOST_CORES)
    memory_mib: int = Field(gt=0, le=MOST_MIB)

    def told(self) -> dict[str, float]:
        """As events tell it."""
        return {"cpu": self.cpu, "memoryMib": self.memory_mib}

    def __str__(self) -> str:
        return f"{self.cpu:g} cores, {self.memory_mib} MiB"


def cores(text: str) -> float:
    """Of `1.5` or `1500m`. Raises ValueError for anything else."""
    if not re.fullmatch(CORES, text):
        raise ValueError("not a number of cores: 1.5 or 1500m")
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def mebibytes(text: str) -> int:
    """Of `2Gi`, `1536Mi` or a number of bytes; part of a MiB counts whole. Raises ValueError for anything else."""
    if not re.fullmatch(BYTES, text):
        raise ValueError("not an amount of memory: 2Gi or 1536Mi")
    number = text.rstrip("KMGTik")
    return math.ceil(float(number) * _UNITS[text[len(number) :]] / MIB)


def size_of(resources: Resources) -> Size:
    return Size(cpu=resources.cpu_limit, memory_mib=resources.memory_limit_mib)


def sized(resources: Resources, size: Size) -> Resources:
    """`resources` with other limits."""
    return resources.model_copy(update={"cpu_limit": size.cpu, "memory_limit_mib": size.memory_mib})


def why_not(size: Size, resources: Resources) -> str | None:
    """Why an agent with these `resources` may not have this size, in a sentence; None when it may."""
    if size.cpu < resources.cpu:
        return f"it is placed by its request of {resources.cpu:g} cores, and its limit cannot be lower"
    if size.memory_mib < resources.memory_mib:
        return f"it is placed by its request of {resources.memory_mib} MiB of memory, and its limit cannot be lower"
    if resources.cpu_most is not None and size.cpu > resources.cpu_most:
        return f"its template allows at most {resources.cpu_most:g} cores"
    if resources.memory_most_mib is not None and size.memory_mib > resources.memory_most_mib:
        return f"its template allows at most {resources.memory_most_mib} MiB of memory"
    return None
