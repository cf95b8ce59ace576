"""One agent's life for the commands about it: finding it, ordering, waiting, and saying how it is."""

import re
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from api.cli import show
from api.cli.client import Answer, Berth, segment
from api.cli.faults import Fault, TurnedDown, Unreachable
from core.domain.lifecycle import LIVING, AgentState

_ID = re.compile(r"ag-[0-9a-f]{32}")
_PENDING_SECONDS = 60.0
_WAIT_SECONDS = 3600.0
_LOOK_SECONDS = 0.5
_ORDER_LOOKS, _ORDER_LOOK_SECONDS = 20, 0.1
_DETAIL_WIDTH = 120
_STEADY = {"running", "starting"}
_OVER = {"terminated", "cancelled", "failed"}
_DETAILS = (
    ("project", "projectId"),
    ("template", "template"),
    ("runtime", "runtime"),
    ("pool", "pool"),
    ("state", "state"),
    ("reason", "reason"),
    ("restarts", "restartCount"),
    ("place", "position"),
    ("since", "stateSince"),
    ("created", "createdAt"),
    ("started", "startedAt"),
    ("ready", "readyAt"),
    ("last activity", "lastActivityAt"),
    ("deadline", "deadlineAt"),
    ("ended", "endedAt"),
)


def find(berth: Berth, which: str) -> dict[str, Any]:
    """The agent of that id, or the newest of that project, a living one first. Raises `TurnedDown`."""
    if _ID.fullmatch(which):
        one: dict[str, Any] = berth.ask("GET", f"/api/agents/{which}").body
        return one
    found = berth.items("/api/agents", {"projectId": which}, 20)
    if not found:
        raise TurnedDown(
            f"you have no agent {which}, and none in a project of that name", "see: berth agents list --all"
        )
    return next((agent for agent in found if agent["endedAt"] is None), found[0])


def living(berth: Berth, path: str, asked: dict[str, str], most: int) -> list[dict[str, Any]]:
    """The newest living agents of the list at `path`, at most `most`.

    Asked for state by state, since any number of ended ones may be newer; in the order of a life, so that one that
    moves on meanwhile is found twice rather than not at all.
    """
    found: dict[str, dict[str, Any]] = {}
    for state in AgentState:
        if state in LIVING:
            found |= {agent["agentId"]: agent for agent in berth.items(path, {**asked, "state": state.value}, most)}
    newest = sorted(found.values(), key=lambda agent: datetime.fromisoformat(agent["createdAt"]), reverse=True)
    return newest[:most]


def id_of(berth: Berth, which: str) -> str:
    return which if _ID.fullmatch(which) else str(find(berth, which)["agentId"])


def order(berth: Berth, which: str, what: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """Give an order and return the agent as it is when the order shows, or soon after."""
    agent_id = id_of(berth, which)
    path = f"/api/agents/{segment(agent_id)}/{what}"
    # Only a restart is something else when it is ordered twice.
    key = str(uuid.uuid4()) if what == "restart" else None
    answer: dict[str, Any] = _decided(berth, path, body, key, "see what came of it: berth agents list").body
    # A restart of a failed agent is answered as a start is.
    if "status" in answer:
        return find(berth, str(answer.get("agentId") or answer["agent"]["agentId"]))
    # Orders are carried out by the agent's workflow: the answer may be from before it moved.
    looks = 0 if what == "keep" else _ORDER_LOOKS
    while answer["state"] in _STEADY and looks:
        time.sleep(_ORDER_LOOK_SECONDS)
        answer, looks = find(berth, agent_id), looks - 1
    return answer


def start(berth: Berth, project: str, template: str | None, at: str | None, key: str | None) -> Answer:
    """Start, and return what came of it. While nobody decided, ask again with the same key."""
    key = key or str(uuid.uuid4())
    path = f"/api/projects/{segment(project)}/start-agent"
    return _decided(berth, path, wish(template, at), key, f"ask again with --key {key}")


def print_start(answer: Answer, json: bool) -> None:
    found: dict[str, Any] = answer.body
    if json:
        show.as_json(found)
    elif found["status"] == "scheduled":
        show.line(f"{found['scheduledStartId']}  scheduled  {found['startAt']}  ({show.ago(found['startAt'])})")
    elif found["status"] == "queued":
        show.line(
            f"{found['agentId']}  queued  place {found['position']}, {wait_words(found)}  {found['reason'] or ''}"
        )
    else:
        agent = found["agent"]
        new = "created" if answer.status == 201 else "there already"
        show.line(f"{agent['agentId']}  {agent['state']}  {new}")


def _decided(berth: Berth, path: str, body: dict[str, Any] | None, key: str | None, otherwise: str) -> Answer:
    """The answer, asked for again under the same key while nobody has decided. Raises `Unreachable` after a minute."""
    deadline = time.monotonic() + _PENDING_SECONDS
    while True:
        answer = berth.ask("POST", path, body=body, key=key)
        if answer.body.get("status") != "pending":
            return answer
        pause = min(float(answer.headers.get("Retry-After", 2)), 10)
        if time.monotonic() + pause > deadline:
            raise Unreachable("no worker decides about the request", otherwise)
        show.note("berth: no worker answers yet; asking again")
        time.sleep(pause)


def wish(template: str | None, at: str | None) -> dict[str, str]:
    """The body of a start: what was left out is left out."""
    return {name: value for name, value in (("template", template), ("startAt", at)) if value is not None}


def wait_until(berth: Berth, agent_id: str, wanted: set[str], json: bool) -> int:
    """Return 0 once the agent is in a `wanted` state. Raises `Fault` when it ended otherwise, or after an hour."""
    deadline = time.monotonic() + _WAIT_SECONDS
    before = None
    while time.monotonic() < deadline:
        agent = berth.ask("GET", f"/api/agents/{segment(agent_id)}").body
        now = (agent["state"], agent["position"])
        if now != before and not json:
            show.note(f"berth: {_how(agent)}")
        before = now
        if agent["state"] in wanted:
            print_agent(agent, json)
            return 0
        if agent["state"] in _OVER:
            raise Fault(f"{agent_id} is {_how(agent)}", f"see: berth agents events {agent_id}")
        time.sleep(_LOOK_SECONDS)
    raise Fault(f"{agent_id} is still {before[0] if before else 'unknown'} after an hour")


def row(agent: dict[str, Any], *, named: bool = False) -> tuple[str, ...]:
    """One agent as a row of a table; `named` adds whose it is."""
    whose = (agent["userId"],) if named else ()
    return agent["agentId"], *whose, agent["projectId"], agent["state"], _since(agent), _why(agent)


def print_agent(agent: dict[str, Any], json: bool) -> None:
    if json:
        show.as_json(agent)
        return
    show.line(agent["agentId"])
    for name, field in _DETAILS:
        value = agent.get(field)
        if value is None:
            continue
        extra = f"  ({show.when(value)})" if field.endswith("At") else ""
        if field == "position":
            extra = f"  ({wait_words(agent)})"
        show.line(f"  {name:<14}{value}{extra}")
    for work in agent.get("savedWork", ()):
        show.line(f"  {'saved work':<14}{work['url']}  (attempt {work['attempt']}, {work['bytes']} bytes)")


def event_line(event: dict[str, Any], *, named: bool = False) -> str:
    """One event on one line; `named` adds whose it is."""
    words = [show.clock(event["at"]), f"{event['kind']:<24}"]
    if named:
        words.append(f"{event['projectId']} {event['agentId'] or ''}")
    detail = [(name, value) for name, value in event["detail"].items() if value not in (None, "", {}, [])]
    words += [event["reason"] or "", *(f"{name}={_brief(value)}" for name, value in detail)]
    return "  ".join(word for word in words if word)


def _brief(value: Any) -> str:
    """A detail on the line of its event; `--json` has it whole. Of a log's end, the last words tell most."""
    if isinstance(value, dict):
        return ",".join(f"{name}:{_brief(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ";".join(_brief(inner) for inner in value)
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _DETAIL_WIDTH else f"...{text[3 - _DETAIL_WIDTH :]}"


def wait_words(waiting: dict[str, Any]) -> str:
    minutes, span = waiting.get("estimatedWaitMinutes"), waiting.get("estimatedWait")
    if minutes is None:
        return "wait unknown"
    if span is None or span["low"] == span["high"]:
        return f"about {minutes} min"
    return f"about {minutes} min ({span['low']} to {span['high']})"


def save(berth: Berth, path: str, output: Path) -> None:
    """Fetch `path` into the file `output`, whole or not at all."""
    fresh = output.with_name(f".{output.name}.part")
    try:
        with fresh.open("wb") as file:
            for chunk in berth.stream(path):
                file.write(chunk)
        fresh.replace(output)
    except OSError as error:
        raise Fault(f"{output} cannot be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _since(agent: dict[str, Any]) -> str:
    return show.ago(agent.get("stateSince") or agent["createdAt"])


def _why(agent: dict[str, Any]) -> str:
    words = [agent["reason"] or ""]
    if agent["position"] is not None:
        words.append(f"place {agent['position']}, {wait_words(agent)}")
    if agent["state"] == "draining" and agent["deadlineAt"]:
        words.append(f"ends {show.ago(agent['deadlineAt'])}")
    return ", ".join(word for word in words if word)


def _how(agent: dict[str, Any]) -> str:
    why = _why(agent)
    return f"{agent['state']} ({why})" if why else str(agent["state"])
