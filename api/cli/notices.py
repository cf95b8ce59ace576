"""What is told outside, for administrators: `berth notices`, `berth notices replay` and `berth notices close`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from api.cli import show
from api.cli.agents import AsJson
from api.cli.faults import TurnedDown, WrongUse

group = typer.Typer(
    help="Webhooks and e-mails: what was sent, what waits, what was given up (administrators).",
    invoke_without_command=True,
    rich_markup_mode=None,
)
_COLUMNS = ("ID", "KIND", "STATE", "SINCE", "TRIES", "WHY")
_PATH = "/api/admin/notices"


class ChannelName(StrEnum):
    WEBHOOK = "webhook"
    EMAIL = "email"


Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="notices")


@group.callback()
def list_notices(
    ctx: typer.Context,
    dead: Annotated[bool, typer.Option("--dead", help="Only those given up.")] = False,
    channel: Annotated[ChannelName | None, typer.Option(help="Only those of this channel.")] = None,
    limit: Limit = 200,
    json: AsJson = False,
) -> None:
    """List webhooks and e-mails, newest first; `replay` has a dead one tried again."""
    if ctx.invoked_subcommand is not None:
        return
    from api.cli.client import Berth

    asked = {"state": "dead"} if dead else {}
    if channel is not None:
        asked["channel"] = channel.value
    with Berth.open() as berth:
        found = berth.items(_PATH, asked, limit)
    if json:
        show.as_json(found)
    else:
        show.table(_COLUMNS, [_row(each) for each in found], "no notice was given up" if dead else "no notices")


@group.command()
def replay(
    notice: Annotated[str | None, typer.Argument(metavar="ID", help="As `berth notices --dead` shows it.")] = None,
    all_dead: Annotated[bool, typer.Option("--all-dead", help="All that were given up.")] = False,
    json: AsJson = False,
) -> None:
    """Have a dead notice tried again, under its old id."""
    from api.cli.client import Berth, segment

    if (notice is None) != all_dead:
        raise WrongUse("say an ID, or --all-dead")
    with Berth.open() as berth:
        ids = [notice] if notice is not None else [each["noticeId"] for each in berth.items(_PATH, {"state": "dead"})]
        replayed = []
        for each in ids:
            try:
                replayed.append(berth.ask("POST", f"{_PATH}/{segment(str(each))}/replay").body)
            except TurnedDown:
                # Of many, one may have been replayed by somebody else meanwhile.
                if notice is not None:
                    raise
    if json:
        show.as_json(replayed)
    else:
        show.table(_COLUMNS, [_row(each) for each in replayed], "no notice was given up")


@group.command()
def close(
    channel: Annotated[ChannelName, typer.Argument(metavar="CHANNEL", help="webhook or email.")], json: AsJson = False
) -> None:
    """Make no more notices for a channel that no worker is set up to send any more; what waits is kept for a day."""
    from api.cli.client import Berth

    with Berth.open() as berth:
        closed = berth.ask("POST", f"{_PATH}/channels/{channel.value}/close").body
    if json:
        show.as_json(closed)
    else:
        show.note(f"no more notices by {channel.value}, until a worker starts that is set up to send them")


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    why = ": ".join(part for part in (found["error"], found["errorDetail"]) if part)
    ahead = found["nextTryAt"]
    again = f"; again {show.ago(ahead)}" if ahead and found["tries"] else ""
    return (
        found["noticeId"],
        found["kind"],
        found["state"],
        show.ago(found["createdAt"]),
        str(found["tries"]),
        f"{why}{again}",
    )
