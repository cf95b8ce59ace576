"""Which events become notices, on which channel, and when one that was not taken is tried again. Pure."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from pydantic import Field

from core.domain.events import EventKind
from core.domain.lifecycle import AgentState, EndReason
from core.domain.value import Value


class Channel(StrEnum):
    """How a notice leaves. Who listens on the event socket hears of everything at once, and needs none."""

    WEBHOOK = "webhook"
    EMAIL = "email"


class NoticeState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"


class Outcome(StrEnum):
    """What one try came to."""

    SENT = "sent"
    RETRIED = "retried"
    DEAD = "dead"


class Trouble(StrEnum):
    """Why a try failed."""

    PRIVATE_ADDRESS = "webhook_private_address"
    UNKNOWN_HOST = "webhook_unknown_host"
    UNREACHABLE = "webhook_unreachable"
    TLS = "webhook_tls"
    TIMEOUT = "webhook_timeout"
    NO_ANSWER = "webhook_no_answer"
    REDIRECT = "webhook_redirect"
    STATUS = "webhook_status"
    SMTP_UNREACHABLE = "smtp_unreachable"
    SMTP_TLS = "smtp_tls"
    SMTP_TIMEOUT = "smtp_timeout"
    SMTP_LOGIN = "smtp_login"
    SMTP_LATER = "smtp_later"
    SMTP_REFUSED = "smtp_refused"
    NO_ADDRESS = "email_address_invalid"
    CLOSED = "channel_closed"
    BROKEN = "berth_failed"


class Failure(Value):
    """A try that failed. `final`: another would fail too. `asked`: the receiver wants so many seconds of peace."""

    trouble: Trouble
    detail: str
    final: bool = False
    asked: float | None = None


class Mail(StrEnum):
    ALWAYS = "always"
    AWAY = "away"  # only while nobody watches the agent


class Wanted(Value):
    webhook: bool
    email: Mail | None = None


class Happening(Protocol):
    @property
    def kind(self) -> EventKind: ...

    @property
    def state(self) -> AgentState | None: ...

    @property
    def reason(self) -> str | None: ...


class Happened(Value):
    """An event as a notice carries it, fixed in the moment it was written."""

    kind: EventKind
    at: datetime
    user_id: str
    project_id: str
    agent_id: str | None
    seq: int | None
    cursor: int
    state: AgentState | None
    reason: str | None
    detail: dict[str, Any]


# Commands are their caller's business, who has the answer.
_NO_WEBHOOK = frozenset({EventKind.COMMAND_EXECUTED, EventKind.POSITION_CHANGED})


def wanted(happened: Sequence[Happening]) -> list[Wanted]:
    """For each of the events that are written together. Whatever they are, they lead to one e-mail at most.

    An e-mail is for an agent that failed for good or has to make room, and for the beginning of a grace that nobody
    may see run out. Restarts on the way to a failure, and later words about the same grace, are the same incident.
    """
    kinds = {each.kind for each in happened}
    drains = any(_warns(each) for each in happened) and EventKind.DRAINING in kinds
    if EventKind.FAILED in kinds:
        about, mail = EventKind.FAILED, Mail.ALWAYS
    elif EventKind.EVICTED in kinds:
        about, mail = EventKind.EVICTED, Mail.ALWAYS
    else:
        about, mail = EventKind.WARNING, Mail.AWAY
    return [
        Wanted(
            webhook=each.kind not in _NO_WEBHOOK,
            email=mail if each.kind is about and (drains or about is not EventKind.WARNING) else None,
        )
        for each in happened
    ]


def _warns(each: Happening) -> bool:
    # What a person asked for they need not be told.
    return (
        each.kind is EventKind.WARNING
        and each.state is AgentState.DRAINING
        and each.reason != EndReason.USER_REQUESTED.value
    )


class Patience(Value):
    """How long a delivery that fails is tried."""

    retry_seconds: float = Field(10, gt=0, le=3600, description="before the second try; doubles with each")
    retry_most_seconds: float = Field(3600, gt=0, le=86_400)
    give_up_hours: float = Field(24, gt=0, le=24 * 30, description="then a notice is dead, until replayed by hand")


def pause(tries: int, patience: Patience, roll: float, asked: float | None = None) -> float:
    """Seconds until the next try after `tries` that failed: doubling, less up to a quarter by `roll` (0 to 1), so that
    what failed together does not come back together. A receiver that `asked` for longer gets it, within the most.
    """
    doubled = patience.retry_seconds * 2.0 ** min(tries - 1, 40)
    chosen = min(doubled, patience.retry_most_seconds) * (1 - roll / 4)
    return max(chosen, min(asked or 0, patience.retry_most_seconds))
