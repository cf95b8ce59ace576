"""The local stack's servers one at a time, as a rehearsal deployment runs them; hidden from help."""

import asyncio
import os
from typing import Annotated

import typer

from api.cli import config
from api.cli.faults import WrongUse

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

    folder = config.load().data_dir / "postgres"
    folder.parent.mkdir(parents=True, exist_ok=True)
    return asyncio.run(run_alone(Postgres(folder, port, password, host=_EVERYWHERE).part()))


def temporal(port: Port = 7233, ui_port: Port = 8233, http_port: Port = 7243) -> int:
    """Run a Temporal server that the network can reach. It asks nobody who they are."""
    settings = config.load()
    from core.dev.alone import run_alone
    from core.dev.temporal import Temporal
    from workflows.options import SEARCH_ATTRIBUTES

    server = Temporal(
        folder=settings.data_dir / "temporal",
        port=port,
        ui_port=ui_port,
        http_port=http_port,
        namespace=settings.temporal.namespace,
        search_attributes={key.name: "Keyword" for key in SEARCH_ATTRIBUTES},
        host=_EVERYWHERE,
    )
    server.folder.parent.mkdir(parents=True, exist_ok=True)
    return asyncio.run(run_alone(server.part()))
