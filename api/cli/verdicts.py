"""One check of this machine: what it is for, what was found, and what mends it."""

from dataclasses import dataclass
from enum import StrEnum


class For(StrEnum):
    """What needs it."""

    ALL = "Berth"
    STACK = "the local stack"
    PROCESS = "runtime process"
    MEMORY = "runtime memory"
    KUBERNETES = "runtime kubernetes"
    RUNNING = "this installation"


class Verdict(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, but less well; `mend` says how it would be better
    LACKS = "lacks"
    PROBLEM = "problem"  # of what runs: it does not do its work


@dataclass(frozen=True)
class Check:
    needed_by: For
    what: str
    verdict: Verdict
    found: str
    mend: str = ""
