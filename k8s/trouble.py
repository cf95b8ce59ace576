"""What is wrong with a pod, in our terms, and the parts that its sentences are made of."""

from collections.abc import Iterable

from kubernetes.aio.client import CoreV1Event
from pydantic import BaseModel, ConfigDict

from core.domain.recovery import FailureKind


class Trouble(BaseModel):
    """`final` is False while it may still pass by itself: then it is worth telling, and not worth giving up for."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: FailureKind
    detail: str
    final: bool = True


def latest(events: Iterable[CoreV1Event], *reasons: str) -> str:
    """The message of the last event of these reasons, events being oldest first; empty when there is none."""
    found = ""
    for event in events:
        if event.reason in reasons and event.message:
            found = event.message
    return found
