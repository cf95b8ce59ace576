"""What a person does with agents all day: `berth agents ...`, `berth queue` and `berth explain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli import show
from api.cli.faults import WrongUse

group = typer.Typer(
    help="Your agents: list, start, watch, use and stop them.", no_args_is_help=False, rich_markup_mode=None
)

Which = Annotated[str, typer.Argument(metavar="AGENT", help="An agent's id, or a project: its newest agent.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: the answer of the API as it is.")]
AT_HELP = "When: 2026-12-01T09:00:00+01:00, with its zone, at most 30 days ahead."
WAIT_HELP = "Return when it is there, or fails."


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="agents")
    app.command()(queue)
    app.command()(explain)


@group.command("list")
def list_agents(
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    project: Annotated[str | None, typer.Option(help="Only those of this project.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that ended.")] = False,
    everyone: Annotated[bool, typer.Option("--everyone", help="Those of all users; for administrators.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 200,
    json: AsJson = False,
) -> None:
    """List your agents, newest first."""
    from api.cli.client import Berth
    from api.cli.life import living, row

    path = "/api/admin/agents" if everyone else "/api/agents"
    asked = {name: value for name, value in (("state", state), ("projectId", project)) if value is not None}
    none = "no agents"
    with Berth.open() as berth:
        if everything or state is not None:
            found = berth.items(path, asked, limit + 1)
        else:
            found = living(berth, path, asked, limit + 1)
            if not found and not json and (ended := len(berth.items(path, asked, limit))):
                none = f"none lives, {ended}{' or more' if ended == limit else ''} ended: --all shows them"
    if len(found) > limit:
        found = found[:limit]
        show.note(f"berth: there are more; these are the newest {limit}, --limit asks for others too")
    if json:
        show.as_json(found)
    else:
        columns = ("AGENT", *(("USER",) if everyone else ()), "PROJECT", "STATE", "SINCE", "WHY")
        show.table(
            columns, [row(agent, named=everyone) for agent in found], f"{none} (berth agents start PROJECT starts one)"
        )


@group.command("show")
def show_agent(agent: Which, json: AsJson = False) -> None:
    """Show one agent."""
    from api.cli.client import Berth
    from api.cli.life import find, print_agent

    with Berth.open() as berth:
        print_agent(find(berth, agent), json)


@group.command()
def start(
    project: Annotated[str, typer.Argument(metavar="PROJECT")],
    template: Annotated[str | None, typer.Option(help="What to run; the default template if not given.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help=AT_HELP)] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same one gives the same answer.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is usable, or fails.")] = False,
    json: AsJson = False,
) -> int | None:
    """Start an agent for a project, or get the one that lives.

    Now, or with --at later. Where there is no room it waits in line; see: berth explain, berth queue.
    """
    if at is not None and wait:
        raise WrongUse("--at and --wait do not go together", "see: berth agents scheduled")
    from api.cli.client import Berth
    from api.cli.life import print_start, wait_until
    from api.cli.life import start as begin

    with Berth.open() as berth:
        answer = begin(berth, project, template, at, key)
        # A program is given one document: here the agent once it is usable.
        if not (wait and json):
            print_start(answer, json)
        if not wait:
            return None
        agent_id = answer.body.get("agentId") or answer.body["agent"]["agentId"]
        return wait_until(berth, agent_id, {"running"}, json)


@group.command()
def stop(
    agent: Which,
    grace: Annotated[float, typer.Option(min=0, max=600, help="Seconds of warning before.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is gone.")] = False,
    json: AsJson = False,
) -> int | None:
    """Stop an agent, or leave the queue."""
    from api.cli.client import Berth
    from api.cli.life import order, print_agent, wait_until

    with Berth.open() as berth:
        found = order(berth, agent, "stop", {"graceSeconds": grace})
        if not wait:
            print_agent(found, json)
            return None
        return wait_until(berth, found["agentId"], {"terminated", "cancelled"}, json)


@group.command()
def keep(agent: Which, json: AsJson = False) -> None:
    """Take back the warning that an agent will be stopped."""
    _order(agent, "keep", json)


@group.command()
def restart(agent: Which, json: AsJson = False) -> None:
    """Restart an agent; of a failed one, a new life with a new id."""
    _order(agent, "restart", json)


@group.command()
def events(agent: Which, json: AsJson = False) -> None:
    """Print an agent's life so far, oldest first."""
    from api.cli.client import Berth, segment
    from api.cli.life import event_line, id_of

    with Berth.open() as berth:
        found = berth.items(f"/api/agents/{segment(id_of(berth, agent))}/events")
    if json:
        show.as_json(found)
        return
    for event in found:
        show.line(event_line(event))


@group.command()
def logs(
    agent: Which, follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the agent ends.")] = False
) -> None:
    """Print an agent's own log, as the agent wrote it: the one command about agents without --json."""
    from api.cli.client import Berth
    from api.cli.life import id_of
    from api.cli.logs import followed, log_path

    with Berth.open() as berth:
        agent_id = id_of(berth, agent)
        try:
            show.stream(followed(berth, agent_id) if follow else berth.stream(log_path(agent_id)))
        except KeyboardInterrupt:
            return


@group.command()
def watch(
    agent: Annotated[str | None, typer.Argument(metavar="[AGENT]", help="Only this one; else all of yours.")] = None,
    after: Annotated[str | None, typer.Option(help="A cursor of an earlier event: first what came since.")] = None,
    json: AsJson = False,
) -> None:
    """Follow what happens to your agents, live.

    One line an event, until Ctrl-C.
    """
    from api.cli.client import Berth
    from api.cli.follow import events as follow
    from api.cli.life import event_line, id_of

    with Berth.open() as berth:
        only = id_of(berth, agent) if agent is not None else None
        try:
            for event in follow(berth, after, None if json else _say_open):
                if only is not None and event["agentId"] != only:
                    continue
                if json:
                    show.as_json(event, indent=None)
                else:
                    show.line(event_line(event, named=only is None))
        except KeyboardInterrupt:
            return


@group.command("exec")
def execute(
    agent: Which,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="navigate, click, screenshot, run_task, ...")],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its parameters: url=https://example.org/")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds to wait for the result.")] = 60,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to put a picture or PDF.")] = None,
    json: AsJson = False,
) -> None:
    """Run one command in the agent's browser and print its result."""
    from api.cli.client import Berth, segment
    from api.cli.life import id_of, save

    given = {}
    for word in parameters or ():
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise WrongUse(f"a parameter is NAME=VALUE, not {word!r}", "for example: url=https://example.org/")
        given[name] = value
    with Berth.open() as berth:
        answer = berth.ask(
            "POST",
            f"/api/agents/{segment(id_of(berth, agent))}/execute",
            body={"command": command, "parameters": given, "timeoutSeconds": timeout},
            seconds=timeout + 15,
        ).body
        result: dict[str, Any] = answer["result"]
        if output is not None:
            artefact = result.get("artefactId")
            if not isinstance(artefact, str):
                raise WrongUse(f"{command} makes no picture or PDF, so there is nothing for --output")
            save(berth, f"/api/artefacts/{segment(artefact)}", output)
    if json:
        show.as_json(answer)
    elif output is not None:
        show.line(f"{output}  {result['contentType']}  {result['bytes']} bytes")
    else:
        show.as_json(result)


def queue(json: AsJson = False) -> None:
    """Show your agents that wait, with place and wait."""
    from api.cli.client import Berth
    from api.cli.life import wait_words

    with Berth.open() as berth:
        found = berth.items("/api/queue")
    if json:
        show.as_json(found)
        return
    rows = [
        (item["agentId"], item["projectId"], str(item.get("position") or ""), wait_words(item), item["reason"] or "")
        for item in found
    ]
    show.table(("AGENT", "PROJECT", "PLACE", "WAIT", "WHY"), rows, "none of your agents waits")


def explain(
    project: Annotated[str, typer.Argument(metavar="PROJECT")],
    template: Annotated[str | None, typer.Option(help="What would run; the default template if not given.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help=AT_HELP)] = None,
    json: AsJson = False,
) -> None:
    """Say what starting an agent would lead to now, and why. Starts nothing."""
    from api.cli.client import Berth, segment
    from api.cli.explanation import lines
    from api.cli.life import wish

    with Berth.open() as berth:
        path = f"/api/projects/{segment(project)}/explain-start"
        found = berth.ask("POST", path, body=wish(template, at)).body
    if json:
        show.as_json(found)
        return
    for line in lines(found):
        show.line(line)


def _say_open() -> None:
    show.note("berth: what happens from now on is shown here; Ctrl-C ends it")


def _order(agent: str, what: str, json: bool) -> None:
    from api.cli.client import Berth
    from api.cli.life import order, print_agent

    with Berth.open() as berth:
        print_agent(order(berth, agent, what, None), json)
