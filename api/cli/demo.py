"""`berth demo`, which is `make demo`: one whole life on this machine, played before one's eyes."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import config
from api.cli.faults import Fault

if TYPE_CHECKING:
    from core.settings import Settings

_TOKEN_LIFETIME = timedelta(days=1)


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    leave: Annotated[
        bool, typer.Option("--exit", envvar="DEMO_EXIT", help="Leave after the life instead of staying up.")
    ] = False,
    any_ports: Annotated[bool, typer.Option("--any-ports", help="On ports that nobody listens on.")] = False,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where the demo keeps its data.")] = None,
) -> int:
    """Play one whole life with a real browser."""
    settings = config.load()
    _check_machine(settings)
    folder = (data_dir or settings.data_dir / "demo").absolute()
    from rich.console import Console

    from core.dev.demo.run import DemoOptions, run_demo
    from workflows.options import SEARCH_ATTRIBUTES

    options = DemoOptions(
        folder=folder,
        sign=_sign,
        leave=leave,
        search_attributes={key.name: "Keyword" for key in SEARCH_ATTRIBUTES},
        any_ports=any_ports,
    )
    return asyncio.run(run_demo(options, Console(highlight=False, soft_wrap=True)))


def _check_machine(settings: "Settings") -> None:
    """Raises `Fault`, so that nothing is begun that cannot end well."""
    from api.cli.checks import examine, lacking, packages
    from api.cli.verdicts import For

    # Of the stack itself the demo starts one of its own, whatever database or Temporal is set.
    missing = [check for check in lacking(examine(settings, []), "process") if check.needed_by is not For.STACK]
    if missing:
        found = "; ".join(f"{check.what}: {check.found}" for check in missing)
        raise Fault(f"the demo cannot run here: {found}", packages(missing) or missing[0].mend)


def _sign(secret: str, user: str, admin: bool) -> str:
    from pydantic import SecretStr

    from api.auth import Role, issue
    from core.settings import Auth

    role = Role.ADMIN if admin else Role.USER
    return issue(Auth(secret=SecretStr(secret)), user, role, datetime.now(UTC), _TOKEN_LIFETIME)
