"""How a command fails: an exit code that scripts can branch on, and one line that says what to do."""

import re
from enum import IntEnum

import typer

from core.dev.failure import CannotStart
from core.errors import BerthError, InvalidRequest, Refused, RuntimeRetryable, Unavailable
from core.ids import MalformedId
from core.launch import CannotConfine

# Colours and cursor movements, which somebody else's text must not bring into a person's terminal, and line ends.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    REFUSED = 3
    UNREACHABLE = 4


class Fault(Exception):
    """Ends a command with `code`; `line` is a sentence for a person, `action` what would help."""

    code = ExitCode.FAILED

    def __init__(self, line: str, action: str | None = None) -> None:
        super().__init__(line)
        self.line = line
        self.action = action


class WrongUse(Fault):
    code = ExitCode.WRONG_USE


class TurnedDown(Fault):
    """Berth answered, and said no."""

    code = ExitCode.REFUSED


class Unreachable(Fault):
    code = ExitCode.UNREACHABLE


def fault_of(error: Exception) -> Fault:
    """Any exception as a `Fault`; one that nobody foresaw names its type and says how to see more."""
    match error:
        case Fault():
            return error
        case typer.TyperException():
            # What click finds wrong with the words of a command line.
            context = getattr(error, "ctx", None)
            path = context.command_path if context is not None else "berth"
            return WrongUse(error.format_message().replace("Value error, ", ""), f"see: {path} --help")
        case CannotStart() | CannotConfine():
            return Fault(str(error))
        case MalformedId():
            return WrongUse(str(error))
        case InvalidRequest():
            return WrongUse(error.detail, _words(error.action))
        case Refused():
            return TurnedDown(error.detail, _words(error.action))
        case Unavailable(error_code="port_taken"):
            # Here it is we who could not be reached.
            return Fault(error.detail)
        case Unavailable() | RuntimeRetryable():
            return Unreachable(error.detail, _words(error.action))
        case BerthError():
            return Fault(error.detail, _words(error.action))
        case _:
            return Fault(f"{type(error).__name__}: {error}", "--debug shows where")


def line_of(fault: Fault) -> str:
    """The fault on one line."""
    return printable(f"{fault.line} ({fault.action})" if fault.action else fault.line)


def printable(text: str) -> str:
    """`text` on one line, without anything that a terminal would obey."""
    return _UNPRINTABLE.sub(" ", text).rstrip()


def _words(action: str | None) -> str | None:
    return action.replace("_", " ") if action else None
