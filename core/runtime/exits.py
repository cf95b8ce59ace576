"""What an agent's exit code means (API contract 4), and how its user is told."""

from core.domain.excerpts import last_lines, one_line
from core.domain.recovery import FailureKind
from core.domain.wire import AgentExit

_TOLD = {
    AgentExit.KILLED.value: "it was killed (exit code 137)",
    AgentExit.TOLD_BY_HOST.value: "its machine told it to go (exit code 143)",
}


def failure_of(exit_code: int, *, killed_for_memory: bool = False) -> FailureKind | None:
    """The failure behind an exit code; None when the agent left as Berth had ordered.

    `killed_for_memory` says that the kernel killed something of the agent for memory; it counts only where the code
    itself does not tell (137 is any SIGKILL).
    """
    try:
        meant = AgentExit(exit_code)
    except ValueError:
        return FailureKind.CRASH
    match meant:
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
        case AgentExit.PART_CRASHED:
            return FailureKind.CRASH


def exit_code_of(wait_status: int) -> int:
    """A wait status as a shell would say it: the exit code, or 128 and the number of the signal."""
    if wait_status & 0x7F:
        return 128 + (wait_status & 0x7F)
    return wait_status >> 8


def told_of(exit_code: int, *, said: str = "", log: str | None = None, failure: FailureKind | None = None) -> str:
    """An end as a sentence: what the agent itself `said` of it, else what its code means.

    Of a code that means nothing to us, the last lines of its log tell more.
    """
    if told := one_line(said):
        return told
    if failure is FailureKind.OUT_OF_MEMORY:
        return "it used more memory than its limit and was killed"
    if known := _TOLD.get(exit_code):
        return known
    told, tail = f"it ended with exit code {exit_code}", last_lines(log)
    return f"{told}: {tail}" if tail else told
