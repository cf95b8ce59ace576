"""An explanation in lines for people: what would happen, each check, who is ahead, and what would help."""

from collections.abc import Iterator
from typing import Any

from api.cli import show
from api.cli.life import wait_words

_WOULD = {
    "created": "would start now",
    "existing": "lives already",
    "queued": "would wait",
    "rejected": "would be refused",
    "scheduled": "would be scheduled",
}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """`found` is the answer of explain-start."""
    yield "  ".join(part for part in (_WOULD[found["status"]], found["reason"] or "", _stands(found)) if part)
    # The agent that lives is counted in these numbers, so they are no answer to whether it may.
    for each in found["checks"] if found["status"] != "existing" else ():
        numbers = "  ".join(f"{name}={_shown(name, value)}" for name, value in each["numbers"].items())
        yield f"  {'ok' if each['passed'] else 'NO':<4}{each['check']:<22}{numbers}"
    if found["place"] is not None:
        yield f"  ahead: {', '.join(f'{number} {tier}' for tier, number in reversed(found['place']['ahead'].items()))}"
    for each in found["helps"]:
        yield f"  helps: {_help(each)}"


def _stands(found: dict[str, Any]) -> str:
    if found["startAt"] is not None:
        return f"{found['startAt']} ({show.ago(found['startAt'])}), and decided by what is true then"
    if found["agent"] is not None:
        return f"{found['agent']['agentId']} is {found['agent']['state']}"
    return f"place {found['place']['position']}, {wait_words(found['place'])}" if found["place"] is not None else ""


def _help(each: dict[str, Any]) -> str:
    match each["action"]:
        case "stop_agent":
            return f"stop {each['agentId']} of project {each['projectId']}"
        case "upgrade_subscription" if each["place"] is not None:
            return f"with the tier {each['tier']}: place {each['place']['position']}, {wait_words(each['place'])}"
        case "upgrade_subscription":
            return f"the tier {each['tier']} allows more agents"
        case action:
            return str(action).replace("_", " ")


def _shown(name: str, value: bool | int | str | None) -> str:
    if value is None:
        return "none" if name.lower().endswith("limit") else "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
