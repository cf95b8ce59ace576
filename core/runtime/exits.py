"""What an agent's exit code means (API contract 4)."""

from core.domain.recovery import FailureKind
from core.domain.wire import AgentExit


def failure_of(exit_code: int, *, killed_for_memory: bool = False) -> FailureKind | None:
    """The failure behind an exit code; None when the agent left as Berth had ordered.

    `killed_for_memory` says that the kernel killed something of the agent for memory; it counts only where the code
    itself does not tell (137 is any SIGKILL).
    """
    match exit_code:
        case AgentExit.ORDERED:
            return None
        case AgentExit.PART_OUT_OF_MEMORY:
            return FailureKind.OUT_OF_MEMORY
        case AgentExit.CANNOT_START:
            return FailureKind.CANNOT_START
        case AgentExit.KILLED:
            return FailureKind.OUT_OF_MEMORY if killed_for_memory else FailureKind.CRASH
        case AgentExit.TOLD_BY_HOST:
            return FailureKind.EXITED
        case _:
            return FailureKind.CRASH


def exit_code_of(wait_status: int) -> int:
    """A wait status as a shell would say it: the exit code, or 128 and the number of the signal."""
    if wait_status & 0x7F:
        return 128 + (wait_status & 0x7F)
    return wait_status >> 8
