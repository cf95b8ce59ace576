"""What to do when an agent fails: try again after a pause, or give up. Pure.

A browser that ends while its agent lives is not among it: the agent replaces it by itself, in the same attempt, and
reports only that it has. When it cannot, or has had to three times within ten minutes, it ends, and that is a `CRASH`
or `OUT_OF_MEMORY` like any other.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

MAX_RESTARTS = 3


class FailureKind(StrEnum):
    """What went wrong, as the runtime, the channel or the workflow saw it."""

    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    START_DEADLINE = "start_deadline"
    CANNOT_START = "cannot_start"
    CHANNEL_LOST = "channel_lost"
    HEALTH = "health_check_failed"
    RUNTIME_GONE = "runtime_gone"
    HOST_LOST = "host_lost"
    EXITED = "exited"
    IMAGE_PULL = "image_pull"
    UNSCHEDULABLE = "unschedulable"
    QUOTA_EXCEEDED = "cluster_quota_exceeded"
    EVICTED = "evicted"
    USER_RESTART = "user_restart"
    MIGRATION = "migration"


# Ordered by people: nothing broke, so the agent is asked to save first, and no restart is used up.
ORDERED = frozenset({FailureKind.USER_RESTART, FailureKind.MIGRATION})
# Nothing that a second try would change: a missing binary, a refused sandbox, an image that does not exist, a template
# larger than every machine. Runtimes report these once they are sure; until then they wait, and the deadline decides.
_PERMANENT = frozenset({FailureKind.CANNOT_START, FailureKind.IMAGE_PULL, FailureKind.UNSCHEDULABLE})


class Restart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    after_seconds: float


class GiveUp(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    reason: str


def decide(
    kind: FailureKind, restarts: int, backoff_seconds: float, *, held_away: bool = False, spent: bool = True
) -> Restart | GiveUp:
    """`restarts` were done since the agent was last healthy for long; pauses are 1, 2, 4, 8 times the back-off.

    What has not `spent` a restart gives nobody up either, however many the failures before it have used.

    An attempt that was `held_away` from a machine may have no other: the next one may go anywhere again.
    """
    if kind in ORDERED:
        return Restart(after_seconds=0)
    if kind in _PERMANENT and not (held_away and kind is FailureKind.UNSCHEDULABLE):
        return GiveUp(reason=kind.value)
    if restarts >= MAX_RESTARTS and spent:
        return GiveUp(reason=kind.value)
    return Restart(after_seconds=backoff_seconds * 2**restarts)


def spends(kind: FailureKind, *, was_usable: bool) -> bool:
    """Whether a failure uses up one of the restarts: an order does not, nor does a host that went down or was emptied
    under an agent that was well, or a machine switched off a few times would fail everybody on it.
    """
    if kind is FailureKind.HOST_LOST:
        return not was_usable
    return kind not in ORDERED
