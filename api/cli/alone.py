"""The local stack's servers one at a time, as a rehearsal deployment runs them; hidden from help."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import config
from api.cli.faults import WrongUse

if TYPE_CHECKING:
    from core.launch import Account

_EVERYWHERE = "0.0.0.0"  # noqa: S104 (a container's own address, which nobody knows beforehand)
_PASSWORD = "BERTH_DATABASE_PASSWORD"  # noqa: S105 (a name)
Port = Annotated[int, typer.Option(min=1, max=65535)]


def add_to(app: typer.Typer) -> None:
    for command in (database, temporal):
        app.command(hidden=True)(command)


def database(port: Port = 5432) -> int:
    """Run a PostgreSQL that the network can reach; its password comes as BERTH_DATABASE_PASSWORD."""
    password = os.environ.get(_PASSWORD, "")
    if not password.isalnum():
        raise WrongUse(f"{_PASSWORD} must be letters and digits", "make one: openssl rand -hex 32")
    from core.dev.alone import run_alone
    from core.dev.postgres import Postgres

    folder = _data_folder() / "postgres"
    return asyncio.run(run_alone(Postgres(folder, port, password, _account(0), _EVERYWHERE).part()))


def temporal(port: Port = 7233, ui_port: Port = 8233, http_port: Port = 7243) -> int:
    """Run a Temporal server that the network can reach. It asks nobody who they are."""
    from core.dev.alone import run_alone
    from core.dev.temporal import Temporal
    from workflows.options import SEARCH_ATTRIBUTES

    server = Temporal(
        folder=_data_folder() / "temporal",
        port=port,
        ui_port=ui_port,
        http_port=http_port,
        namespace=config.load().temporal.namespace,
        search_attributes={key.name: "Keyword" for key in SEARCH_ATTRIBUTES},
        account=_account(1),
        host=_EVERYWHERE,
    )
    return asyncio.run(run_alone(server.part()))


def _data_folder() -> Path:
    folder = config.load().data_dir
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    return folder


def _account(which: int) -> "Account | None":
    """As root, the accounts that the local stack gives these servers."""
    from core import launch
    from core.dev.stack import StackOptions

    uid = StackOptions.uid_base + which
    return launch.Account(uid, uid) if os.geteuid() == 0 else None
