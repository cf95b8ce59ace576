"""What an administrator changes of an agent that runs: `berth agents resize` and `migrate`."""

from typing import Annotated

import typer

from api.cli.agents import AsJson, Which
from api.cli.faults import WrongUse


def add_to(group: typer.Typer) -> None:
    group.command()(resize)
    group.command()(migrate)


def resize(
    agent: Which,
    cpu: Annotated[str | None, typer.Option(metavar="CORES", help="1.5 or 1500m; as it is if not given.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="BYTES", help="2Gi or 1536Mi; as it is if not given.")] = None,
    json: AsJson = False,
) -> None:
    """Give a running agent other limits (administrators).

    Without a restart. Another user's agent is named by its id: berth agents list --everyone.
    """
    asked = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value is not None}
    if not asked:
        raise WrongUse("say --cpu, --memory or both", "for example: --cpu 1500m --memory 2Gi")
    _alter(agent, "resize", asked, json)


def migrate(agent: Which, json: AsJson = False) -> None:
    """Move an agent to another machine (administrators).

    With a warning, and with its profile. Another user's is named by its id: berth agents list --everyone.
    """
    _alter(agent, "migrate", None, json)


def _alter(agent: str, what: str, body: dict[str, str] | None, json: bool) -> None:
    from api.cli.client import Berth, segment
    from api.cli.life import id_of, print_agent

    with Berth.open() as berth:
        path = f"/api/admin/agents/{segment(id_of(berth, agent))}/{what}"
        # Its runtime may take a while to answer.
        print_agent(berth.ask("POST", path, body=body, seconds=45).body, json)
