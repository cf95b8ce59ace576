"""`berth doctor`: what this machine lacks for each runtime, and the command that mends it."""

import os
from typing import Annotated

import typer

from api.cli import config, show
from api.cli.parts import RuntimeName


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    runtime: Annotated[
        RuntimeName | None, typer.Option(help="Fail when this one cannot run. Default: that of the default pool.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Say what this machine lacks, and what mends it.

    Exit code 0 when a local stack with the runtime can start here, else 1.
    """
    from api.cli.checks import examine, lacking, packages
    from api.cli.verdicts import Verdict

    settings = config.load()
    checks = examine(settings, config.unknown())
    wanted = runtime.value if runtime is not None else settings.default_runtime
    missing = lacking(checks, wanted)
    if json:
        show.as_json([check.__dict__ for check in checks])
        return 1 if missing else 0
    before = None
    for check in checks:
        if check.needed_by != before:
            show.line(f"{check.needed_by}:")
            before = check.needed_by
        mend = f"  -> {check.mend}" if check.mend and check.verdict is not Verdict.OK else ""
        show.line(f"  {check.verdict:<6} {check.what}: {check.found}{mend}")
    if missing:
        one = packages(missing)
        first = f"; as root: {one}" if one and os.geteuid() != 0 else f": {one}" if one else ""
        show.note(f"berth: runtime {wanted} cannot run here yet{first}")
        return 1
    show.note(f"berth: runtime {wanted} can run here")
    return 0
