"""What an administrator does to anyone's agent: `berth agents resize`, `migrate` and `terminate`."""

from typing import Annotated

import typer

from api.cli.agents import AsJson, Which
from api.cli.faults import WrongUse


def add_to(group: typer.Typer) -> None:
    group.command()(resize)
    group.command()(migrate)
    group.command()(terminate)


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


def terminate(
    agent: Which,
    reason: Annotated[str, typer.Option(help="maintenance, or a sentence; its user reads it.")] = "operator",
    grace: Annotated[float | None, typer.Option(min=0, max=600, help="Seconds of warning; by the reason.")] = None,
    force: Annotated[bool, typer.Option("--force", help="No warning, and no time to save.")] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="By force, though its runtime does not say that it is gone.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is over.")] = False,
    json: AsJson = False,
) -> int | None:
    """End anyone's agent, in whatever state (administrators).

    Another user's is named by its id: berth agents list --everyone. What --abandon leaves running is removed when its
    runtime answers again.
    """
    from api.cli.client import Berth, segment
    from api.cli.life import id_of, print_agent, wait_until

    body = {"reason": reason, "graceSeconds": grace, "force": force, "abandon": abandon}
    with Berth.open() as berth:
        path = f"/api/admin/agents/{segment(id_of(berth, agent))}/terminate"
        found = berth.ask("POST", path, body=body).body
        if not wait:
            print_agent(found, json)
            return None
        return wait_until(berth, found["agentId"], {"terminated", "cancelled", "failed"}, json)


def _alter(agent: str, what: str, body: dict[str, str] | None, json: bool) -> None:
    from api.cli.client import Berth, segment
    from api.cli.life import id_of, print_agent

    with Berth.open() as berth:
        path = f"/api/admin/agents/{segment(id_of(berth, agent))}/{what}"
        # Its runtime may take a while to answer.
        print_agent(berth.ask("POST", path, body=body, seconds=45).body, json)
