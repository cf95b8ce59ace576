"""`berth doctor`: what this machine lacks for each runtime, and the command that mends it."""

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import config, show
from api.cli.faults import WrongUse
from api.cli.parts import RuntimeName

if TYPE_CHECKING:
    from api.cli.verdicts import Check
    from core.settings import Settings


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    runtime: Annotated[
        RuntimeName | None, typer.Option(help="Fail when this one cannot run. Default: that of the default pool.")
    ] = None,
    running: Annotated[
        bool, typer.Option("--running", help="Ask the installation that the settings name whether it is well.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Say what this machine lacks, and what mends it; or with --running, what is wrong with what runs.

    Exit code 0 when a local stack with the runtime can start here, or all that runs is well, else 1.
    """
    from api.cli.checks import examine, lacking, packages

    settings = config.load()
    if running:
        if runtime is not None:
            raise WrongUse("--runtime is about what could start here, --running about what runs")
        return _running(settings, json)
    checks = examine(settings, config.unknown())
    wanted = runtime.value if runtime is not None else settings.default_runtime
    missing = lacking(checks, wanted)
    if json:
        show.as_json([check.__dict__ for check in checks])
        return 1 if missing else 0
    _tell(checks)
    if missing:
        one = packages(missing)
        first = f"; as root: {one}" if one and os.geteuid() != 0 else f": {one}" if one else ""
        show.note(f"berth: runtime {wanted} cannot run here yet{first}")
        return 1
    show.note(f"berth: runtime {wanted} can run here")
    return 0


def _running(settings: "Settings", json: bool) -> int:
    from api.cli.running_checks import examine
    from api.cli.verdicts import Verdict

    checks = asyncio.run(examine(settings))
    problems = sum(check.verdict is Verdict.PROBLEM for check in checks)
    if json:
        show.as_json([check.__dict__ for check in checks])
    else:
        _tell(checks)
        show.note(f"berth: {problems} of {len(checks)} are a problem" if problems else "berth: it is well")
    return 1 if problems else 0


def _tell(checks: "Sequence[Check]") -> None:
    from api.cli.verdicts import Verdict

    before, width = None, max(6, *(len(check.verdict) + 1 for check in checks))
    for check in checks:
        if check.needed_by != before:
            show.line(f"{check.needed_by}:")
            before = check.needed_by
        mend = f"  -> {check.mend}" if check.mend and check.verdict is not Verdict.OK else ""
        show.line(f"  {check.verdict:<{width}} {check.what}: {check.found}{mend}")
