"""The command line: `berth`. Commands import what they need when they run, so that help comes at once."""

import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, TextIO

import typer

from api.cli import (
    agents,
    alone,
    alterations,
    demo,
    doctor,
    maintenance,
    notices,
    parts,
    releases,
    scheduled,
    schema,
    show,
    users,
)
from api.cli.faults import fault_of, line_of
from core.leaving import leave

# As shells have it for what SIGINT ended.
_INTERRUPTED = 130

app = typer.Typer(
    help="Gives every user a browser agent of their own, and owns that agent's whole life.",
    epilog="Exit codes: 0 done, 1 it failed, 2 wrong use, 3 refused by Berth, 4 not reachable, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    add_completion=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        show.line(version("berth"))
        raise typer.Exit


@app.callback()
def berth(
    debug: Annotated[bool, typer.Option("--debug", help="With an error, show where it arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Gives every user a browser agent of their own, and owns that agent's whole life."""


parts.add_to(app)
schema.add_to(app)
alone.add_to(app)
users.add_to(app)
doctor.add_to(app)
demo.add_to(app)
agents.add_to(app)
scheduled.add_to(agents.group)
notices.add_to(app)
releases.add_to(app)
alterations.add_to(agents.group)
maintenance.add_to(app)


def run() -> NoReturn:
    """`berth`: run the command line that this process was started with, and end the process with its exit code."""
    leave(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words, debug = _without_debug(list(sys.argv[1:] if argv is None else argv))
    try:
        code = _outcome(words)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except Exception as error:  # the owner is the person at the terminal, who is told here
        if isinstance(error, BrokenPipeError) and _unread(sys.stdout):
            # Whoever read the output has seen enough. What is still buffered must not fail again when Python ends.
            for stream in filter(_unread, (sys.stdout, sys.stderr)):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return 0
        if debug:
            traceback.print_exc()
        fault = fault_of(error)
        show.note(f"berth: {line_of(fault)}")
        return fault.code


def _outcome(words: list[str]) -> Any:
    """What the command returns, or the code it ends with. Typer's own `main` makes any broken pipe an exit with 1."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("berth", words) as context:
            return command.invoke(context)
    except typer.Exit as over:
        return over.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED


def _unread(stream: TextIO) -> bool:
    """Whether it is a pipe whose reader is gone."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before `--`."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return kept + words[end:], len(kept) < end
