"""The command line: `berth`. Commands import what they need when they run, so that help comes at once."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

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

app = typer.Typer(
    help="Gives every user a browser agent of their own, and owns that agent's whole life.",
    epilog="Exit codes: 0 done, 1 it failed, 2 wrong use, 3 refused by Berth, 4 not reachable.",
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
        code = typer.main.get_command(app).main(args=words, prog_name="berth", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the owner is the person at the terminal, who is told here
        if debug:
            traceback.print_exc()
        fault = fault_of(error)
        show.note(f"berth: {line_of(fault)}")
        return fault.code


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before `--`."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return kept + words[end:], len(kept) < end
