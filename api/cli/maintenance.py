"""`berth maintenance`: have a pool or a machine emptied, with a warning, now or later."""

from typing import Annotated

import typer

from api.cli import show
from api.cli.agents import AsJson
from api.cli.faults import WrongUse


def add_to(app: typer.Typer) -> None:
    app.command()(maintenance)


def maintenance(
    pool: Annotated[str | None, typer.Option(help="All agents of this pool.")] = None,
    node: Annotated[str | None, typer.Option(help="All agents on this machine.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When they are to be gone: 2026-12-01T09:00:00+01:00; now.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="A sentence; users read it.")] = None,
    json: AsJson = False,
) -> None:
    """Have a pool or a machine emptied, for a maintenance (administrators).

    Users are warned, agents save and end. Pause the pool first, or cordon the machine, or others move in.
    """
    from api.cli.client import Berth

    if (pool is None) == (node is None):
        raise WrongUse("say --pool or --node", "for example: --node worker-3 --reason 'a new kernel'")
    given = {"pool": pool, "node": node, "startsAt": at, "reason": reason}
    with Berth.open() as berth:
        body = {name: value for name, value in given.items() if value is not None}
        found = berth.ask("POST", "/api/admin/maintenance", body=body).body
    if json:
        show.as_json(found)
        return
    place = f"pool {pool}" if node is None else f"machine {node}"
    match found["warned"]:
        case None:
            told = f"agents are warned at {found['warnsAt']} ({show.when(found['warnsAt'])})"
        case 0:
            told = f"no agent lives {'in' if node is None else 'on'} {place}, so nobody is warned"
        case count:
            told = f"{count} agent{'s' if count > 1 else ''} of {place} warned"
    show.line(f"{found['maintenanceId']}: {told}")
