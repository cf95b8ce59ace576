"""What a pod's status means for its agent: phase, exit code, failure, and a sentence its user understands. Pure.

Read from the containers' states: the pod's own phase follows them a second later. A pod is EXITED when its container
ended, and also when waiting cannot help: Kubernetes keeps a pod Pending for ever that no machine can start.
"""

from collections.abc import Sequence

from kubernetes.aio.client import CoreV1Event, V1ContainerStatus, V1Pod, V1PodStatus
from pydantic import BaseModel, ConfigDict

from core.domain.excerpts import one_line
from core.domain.recovery import FailureKind
from core.domain.wire import AgentExit
from core.runtime.base import Phase
from k8s.delays import not_placed, not_started
from k8s.endings import TOLD_OR_KILLED, disruption, ending, knows_why, last_word, put_off
from k8s.marks import READY_BY
from k8s.trouble import Trouble

_CONTAINER = "agent"
# Who deletes with these reasons does not wait for a machine that is silent, and nor do we.
_UNREACHABLE = frozenset({"DeletionByPodGC", "DeletionByTaintManager"})


class Diagnosis(BaseModel):
    """A failure of a pod that is not EXITED is trouble that may still pass, told for its detail."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    phase: Phase
    exit_code: int | None = None
    failure: FailureKind | None = None
    detail: str = ""


def diagnose(pod: V1Pod, events: Sequence[CoreV1Event] = ()) -> Diagnosis:
    """`events` are those of this pod, oldest first; they add words, and count only where `wants_events` is true."""
    status = pod.status or V1PodStatus()
    main = _main(pod)
    if main is not None and main.state is not None and main.state.terminated is not None:
        ended = main.state.terminated
        said = last_word(ended)
        if _by_our_deletion(pod, status) or (said is not None and said.code is AgentExit.ORDERED):
            return _exited(ended.exit_code, None)
        return _exited(ended.exit_code, put_off(status) or ending(ended, events))
    if status.phase in ("Failed", "Succeeded"):
        return _exited(None, put_off(status) or _failed_before(pod))
    if disruption(status) in _UNREACHABLE and not _is_ready(status):
        return _exited(None, put_off(status))
    if status.reason == "NodeLost":
        return _exited(None, put_off(status))
    if main is not None and main.state is not None and main.state.running is not None:
        ready = _is_ready(status) and _ready_by_probe(pod)
        return Diagnosis(phase=Phase.READY if ready else Phase.STARTED)
    return _starting(pod, main, events)


def lost_with(node: str, why: str = "") -> Diagnosis:
    """Of any agent on a machine that Kubernetes says is not ready, whatever the pod's own status still claims."""
    detail = f"its machine {node} does not answer" + (f": {one_line(why)}" if why else "")
    return Diagnosis(phase=Phase.EXITED, failure=FailureKind.HOST_LOST, detail=detail)


def wants_events(pod: V1Pod) -> bool:
    """Whether a pod's status alone may not tell all: while it is made, and when nobody in it knows why it ended."""
    if pod.metadata and pod.metadata.deletion_timestamp:
        return False
    main = _main(pod)
    state = main.state if main else None
    if state is None or state.waiting is not None:
        return (pod.status.phase if pod.status else None) in (None, "Pending")
    ended = state.terminated
    return ended is not None and ended.exit_code in TOLD_OR_KILLED and not knows_why(last_word(ended))


def _starting(pod: V1Pod, main: V1ContainerStatus | None, events: Sequence[CoreV1Event]) -> Diagnosis:
    trouble = not_placed(pod, events)
    for waits in _waiting_of(pod, main):
        image = waits.image or _image(pod, waits.name)
        if trouble is None and waits.state and waits.state.waiting:
            trouble = not_started(waits.state.waiting, image, events)
    deleting = pod.metadata is not None and pod.metadata.deletion_timestamp is not None
    if trouble is None or deleting:
        return Diagnosis(phase=Phase.STARTING)
    phase = Phase.EXITED if trouble.final else Phase.STARTING
    return Diagnosis(phase=phase, failure=trouble.kind, detail=trouble.detail)


def _waiting_of(pod: V1Pod, main: V1ContainerStatus | None) -> list[V1ContainerStatus]:
    """Containers that have to start, in the order in which they do."""
    before = (pod.status and pod.status.init_container_statuses) or []
    return [*before, *([main] if main else [])]


def _failed_before(pod: V1Pod) -> Trouble | None:
    """A pod that ended without its main container having run."""
    for status in (pod.status and pod.status.init_container_statuses) or []:
        ended = status.state and status.state.terminated
        if ended and ended.exit_code:
            detail = f"what prepares it ({status.name}) ended with exit code {ended.exit_code}"
            return Trouble(kind=FailureKind.CANNOT_START, detail=detail)
    if pod.status and pod.status.phase == "Failed":
        detail = one_line(pod.status.message) or "its pod failed, and Kubernetes does not say why"
        return Trouble(kind=FailureKind.EXITED, detail=detail)
    return None


def _by_our_deletion(pod: V1Pod, status: V1PodStatus) -> bool:
    """A pod that is being deleted and that nothing in the cluster drove out was deleted on purpose."""
    return bool(pod.metadata and pod.metadata.deletion_timestamp) and not disruption(status)


def _exited(code: int | None, trouble: Trouble | None) -> Diagnosis:
    if trouble is None:
        return Diagnosis(phase=Phase.EXITED, exit_code=code)
    return Diagnosis(phase=Phase.EXITED, exit_code=code, failure=trouble.kind, detail=trouble.detail)


def _main(pod: V1Pod) -> V1ContainerStatus | None:
    """The agent's own container: named so, or the first."""
    statuses = (pod.status and pod.status.container_statuses) or []
    return next((status for status in statuses if status.name == _CONTAINER), statuses[0] if statuses else None)


def _image(pod: V1Pod, container: str) -> str:
    spec = pod.spec
    made = [*(spec.containers or []), *(spec.init_containers or [])] if spec else []
    return next((each.image or "" for each in made if each.name == container), "")


def _is_ready(status: V1PodStatus) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in status.conditions or [])


def _ready_by_probe(pod: V1Pod) -> bool:
    """Whether Kubernetes' own probe is what makes this agent usable; others say so over their channel."""
    meta = pod.metadata
    marks = {**((meta and meta.labels) or {}), **((meta and meta.annotations) or {})}
    return marks.get(READY_BY) == "probe"
