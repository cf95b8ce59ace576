"""A command's fault as the error its caller gets."""

from api.problems import type_or_code
from core.db.repositories.commands import CommandState, CommandView
from core.domain.wire import CommandFault
from core.errors import BerthError, Conflict, InvalidRequest, RuntimeFault, TimedOut

_KINDS: dict[CommandFault, type[BerthError]] = {
    # The command as asked for cannot be done.
    CommandFault.UNKNOWN_COMMAND: InvalidRequest,
    CommandFault.INVALID_PARAMETERS: InvalidRequest,
    CommandFault.NOT_FOUND: InvalidRequest,
    CommandFault.REFUSED_ADDRESS: InvalidRequest,
    CommandFault.RESULT_TOO_LARGE: InvalidRequest,
    # Not now, or not with this agent.
    CommandFault.BUSY: Conflict,
    CommandFault.CANCELLED: Conflict,
    CommandFault.NO_MODEL: Conflict,
    CommandFault.SHUTTING_DOWN: Conflict,
    # The browser or the task tried and failed.
    CommandFault.BROWSER_FAILED: RuntimeFault,
    CommandFault.PAGE_OUT_OF_MEMORY: RuntimeFault,
    CommandFault.TASK_FAILED: RuntimeFault,
    CommandFault.NOT_STORED: RuntimeFault,
    CommandFault.TIMED_OUT: TimedOut,
}
# All that a command may end with instead of a result, for OpenAPI.
REFUSALS: tuple[type_or_code, ...] = tuple((kind, fault.value) for fault, kind in _KINDS.items())


def error_of(command: CommandView) -> BerthError:
    """What to raise for an ended command that has no result; its code is the fault."""
    fault = command.fault
    if fault is None:
        fault = CommandFault.CANCELLED if command.state is CommandState.CANCELLED else CommandFault.TIMED_OUT
    detail = command.fault_detail or f"the command ended: {fault.value.replace('_', ' ')}"
    return _KINDS[fault](detail, code=fault.value, command_id=command.command_id)
