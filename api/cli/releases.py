"""Releases of the workers, for whoever rolls them out: `berth releases`, `berth releases use` and `... move`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from api.cli import config, show
from api.cli.agents import AsJson
from api.cli.faults import Unreachable, WrongUse
from api.cli.local import addressed

if TYPE_CHECKING:
    from core.settings import Settings
    from temporal.versions import Releases

group = typer.Typer(
    help="Releases of the workers: which is current, what still runs on which (docs/upgrades.md).",
    invoke_without_command=True,
    rich_markup_mode=None,
)
_COLUMNS = ("RELEASE", "STATE", "RUNS")
_NONE = "no worker with a BERTH_WORKER__BUILD_ID has been there: each goes on with every life"
_Told = TypeVar("_Told")
Name = Annotated[str | None, typer.Argument(metavar="RELEASE", help="A build id. Default: BERTH_WORKER__BUILD_ID.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="releases")


@group.callback()
def list_releases(ctx: typer.Context, json: AsJson = False) -> None:
    """List the releases of the workers, newest first, and how many runs each still has.

    One that is drained, with no runs, is needed no more.
    """
    if ctx.invoked_subcommand is not None:
        return
    settings = config.load()
    found = _ask(settings, lambda releases: releases.all())
    if json:
        show.as_json([each.model_dump() for each in found])
    else:
        show.table(_COLUMNS, [(each.build_id, each.status, str(each.runs)) for each in found], _NONE)


@group.command()
def use(release: Name = None) -> None:
    """Make a release the current one: what begins from now on begins there.

    What runs is handed on to it step by step; `move` has that done at once.
    """
    settings = config.load()
    name = release or _own(settings)
    _ask(settings, lambda releases: releases.use(name))
    show.note(f"{name} is current")


@group.command()
def move(
    release: Annotated[
        str | None, typer.Argument(metavar="RELEASE", help="Off which. Default: all that are not current.")
    ] = None,
) -> None:
    """Have all that runs on a release handed on to the current one, each as soon as no step of it is under way."""

    async def moved(releases: "Releases") -> dict[str, int]:
        names = [release] if release else [each.build_id for each in await releases.all() if not each.current]
        return {name: await releases.move(name) for name in names}

    settings = config.load()
    told = _ask(settings, moved)
    if not told:
        show.note("nothing to move: there is no release but the current one")
    for name, count in told.items():
        show.note(f"{count} runs of {name} were told to go on with the current release")


def _own(settings: "Settings") -> str:
    if settings.worker.build_id is None:
        raise WrongUse("which release?", "name it, or set BERTH_WORKER__BUILD_ID")
    return settings.worker.build_id


def _ask(settings: "Settings", ask: "Callable[[Releases], Awaitable[_Told]]") -> _Told:
    from temporal.client import connect
    from temporal.versions import Releases

    there = addressed(settings)
    if there.temporal.address is None:
        raise Unreachable(
            f"no local stack runs in {settings.data_dir}", "start one with: berth up; or set BERTH_TEMPORAL__ADDRESS"
        )

    async def asked() -> _Told:
        return await ask(Releases(await connect(there), settings.worker.deployment))

    return asyncio.run(asked())
