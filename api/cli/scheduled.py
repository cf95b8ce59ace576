"""Starts to come: `berth agents scheduled` and `berth agents unschedule`."""

from typing import Annotated, Any

import typer

from api.cli import show
from api.cli.agents import AsJson

_COLUMNS = ("ID", "PROJECT", "STATE", "AT", "WHY")


def add_to(group: typer.Typer) -> None:
    group.command("scheduled")(list_scheduled)
    group.command()(unschedule)


def list_scheduled(
    everything: Annotated[bool, typer.Option("--all", help="Also what became of those that are over.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 200,
    json: AsJson = False,
) -> None:
    """List your starts to come, the last booked first."""
    from api.cli.client import Berth

    with Berth.open() as berth:
        found = berth.items("/api/scheduled-starts", {} if everything else {"state": "scheduled"}, limit)
    if json:
        show.as_json(found)
    else:
        none = "no start is scheduled (berth agents start PROJECT --at TIME schedules one)"
        show.table(_COLUMNS, [_row(each) for each in found], none)


def unschedule(
    scheduled: Annotated[str, typer.Argument(metavar="ID", help="As `berth agents scheduled` shows it.")],
    json: AsJson = False,
) -> None:
    """Take back a start to come."""
    from api.cli.client import Berth, segment

    with Berth.open() as berth:
        found = berth.ask("DELETE", f"/api/scheduled-starts/{segment(scheduled)}").body
    if json:
        show.as_json(found)
    else:
        show.line("  ".join(_row(found)))


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    at = str(found["startAt"])
    when = f"{at} ({show.ago(at)})" if found["endedAt"] is None else at
    return (
        found["scheduledStartId"],
        found["projectId"],
        found["state"],
        when,
        found["agentId"] or found["reason"] or "",
    )
