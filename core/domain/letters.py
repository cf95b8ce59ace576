"""The words of an e-mail: what happened to an agent, what that means for the work in it, and where to go. Pure."""

from datetime import UTC, datetime
from urllib.parse import quote

from core.domain.events import EventKind
from core.domain.lifecycle import EndReason
from core.domain.notices import Happened
from core.domain.recovery import FailureKind
from core.domain.value import Value

_MOST_CHARACTERS = 500
_KEPT = "Cookies and logins of its browser are kept for the next one; open pages are not."

_ENDED: dict[str, str] = {
    EndReason.USER_LEFT: "you left the project",
    EndReason.INACTIVITY: "nobody has used it for a while",
    EndReason.SUBSCRIPTION_EXPIRED: "the subscription has ended",
    EndReason.RESOURCE_PRESSURE: "the machines run short of memory",
    EndReason.MAINTENANCE: "the machine it runs on is to be serviced",
    EndReason.HEALTH: "it failed its health checks",
    EndReason.OPERATOR: "an administrator stops it",
    EndReason.MAX_LIFE: "it has reached the longest time an agent may live",
}
_BROKEN: dict[str, str] = {
    FailureKind.CRASH: "Its browser or desktop crashed.",
    FailureKind.OUT_OF_MEMORY: "It needed more memory than it may have.",
    FailureKind.START_DEADLINE: "It was not usable in time.",
    FailureKind.CANNOT_START: "The machine cannot start it.",
    FailureKind.CHANNEL_LOST: "It stopped answering.",
    FailureKind.HEALTH: "It failed its health checks.",
    FailureKind.RUNTIME_GONE: "It vanished from the machine it ran on.",
    FailureKind.HOST_LOST: "It lost the machine it ran on.",
    FailureKind.EXITED: "It ended by itself.",
    FailureKind.IMAGE_PULL: "Its image cannot be fetched.",
    FailureKind.UNSCHEDULABLE: "No machine of the cluster can run it.",
    FailureKind.QUOTA_EXCEEDED: "The quota of the cluster is used up.",
    FailureKind.EVICTED: "It had to leave the machine it ran on.",
}


class Letter(Value):
    subject: str
    text: str


def compose(happened: Happened, public_url: str) -> Letter:
    """Every word that came from outside is on one line and without control characters."""
    project = _line(happened.project_id)
    link = f"{public_url}/#/agents/{quote(happened.agent_id or '', safe='')}"
    match happened.kind:
        case EventKind.FAILED:
            subject = f"Your agent in {project} failed"
            paragraphs = [
                f"Your browser agent in the project {project} failed at {_time(happened.at)}, and it is not started"
                f" again by itself. {_BROKEN.get(happened.reason or '', 'Something it needs is broken.')}",
                _more(happened),
                f"What was under way in it is lost. {_KEPT}",
                f"Start it again here:\n\n    {link}",
            ]
        case EventKind.EVICTED:
            subject = f"Your agent in {project} has to make room"
            paragraphs = [
                f"Your browser agent in the project {project} has to make room: the machines run short of memory."
                f" It stops{_until(happened)}.",
                _more(happened),
                f"It saves what it can before it goes. {_KEPT}",
                f"Start it again within half an hour of {_time(happened.at)}, and it counts as asked for then:"
                " before those who came later, but behind those of a higher tier. That holds for one start; after"
                f" the half hour you wait as everybody does.\n\n    {link}",
            ]
        case _:
            subject = f"Your agent in {project} is about to stop"
            keepable = happened.detail.get("keepable") is True
            onward = "Keep it, until then, or start it again later" if keepable else "Start it again afterwards"
            why = _ENDED.get(happened.reason or "", "it was told to")
            paragraphs = [
                f"Your browser agent in the project {project} stops{_until(happened)}, because {why}.",
                _more(happened),
                f"It saves what it can before it goes. {_KEPT}",
                f"{onward}:\n\n    {link}",
            ]
    reference = f"Agent {_line(happened.agent_id or '')}, event {happened.seq}."
    text = "\n\n".join([part for part in paragraphs if part] + ["-- \n" + reference])
    return Letter(subject=subject[:_MOST_CHARACTERS], text=text + "\n")


def _more(happened: Happened) -> str:
    said = _line(str(happened.detail.get("detail") or ""))
    return f"Berth was told: {said}" if said else ""


def _until(happened: Happened) -> str:
    given = happened.detail.get("deadlineAt")
    try:
        return f" at {_time(datetime.fromisoformat(str(given)))}" if given else " now"
    except ValueError:
        return " soon"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%H:%M UTC on %-d %B %Y}"


def _line(text: str) -> str:
    shown = "".join(each if each.isprintable() else " " for each in text[: 4 * _MOST_CHARACTERS])
    return " ".join(shown.split())[:_MOST_CHARACTERS]
