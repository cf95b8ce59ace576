"""Why a pod has not started yet: no place for it, no image, no sandbox. What cannot pass by itself is final."""

import re
from collections.abc import Sequence

from kubernetes.aio.client import CoreV1Event, V1ContainerStateWaiting, V1Pod

from core.domain.excerpts import one_line
from core.domain.recovery import FailureKind
from k8s.trouble import Trouble, latest

_SCHEDULER = re.compile(r"0/(?P<nodes>\d+) nodes are available: (?P<why>.*?)(?:\. |\.$|$)")
_NO_USE = re.compile(r"(\d+) Preemption is not helpful for scheduling")
_LACKS = re.compile(r"^\d+ Insufficient (\S+)$")
# A profile's volume binds its user alone to a zone or a machine, or finds no slot there: others may well be placed.
_OF_VOLUME = re.compile(r"volume|persistent", re.IGNORECASE)
# A control plane's node takes no agents, today or tomorrow; other taints come and go.
_CLOSED_FOR_GOOD = re.compile(r"^\d+ node\(s\) had untolerated taints? \{node-role\.kubernetes\.io/")
_PULLS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ErrImageNeverPull", "ImageInspectError"}
)
# What registries and containerd say of a name that they do not have, or do not show to us.
_NO_SUCH_IMAGE = re.compile(
    r"not found|manifest unknown|does not exist|name unknown|access denied|unauthorized|authentication required|"
    r"insufficient_scope|forbidden",
    re.IGNORECASE,
)
# A registry that does not answer says nothing about the image. "lookup x: no such host" holds no word of the above.
_REGISTRY_AWAY = re.compile(
    r"toomanyrequests|timeout|connection refused|no such host|\b5\d\d (Internal|Bad|Service|Gateway)", re.IGNORECASE
)
_BACK_OFF = re.compile(r'Back-off pulling image "[^"]*"(: \w+)?(: )?')
_NO_RUNTIME = re.compile(r'no runtime for "?([^"\s]*)"? is configured|RuntimeHandler "?([^"\s]*)"? not supported')
_HARDENING = re.compile(r"runAsNonRoot|non-root|non-numeric user|no command specified|executable file not found")
_CREATES = frozenset(
    {"CreateContainerError", "CreateContainerConfigError", "RunContainerError", "CreatePodSandboxError"}
)


def not_placed(pod: V1Pod, events: Sequence[CoreV1Event] = ()) -> Trouble | None:
    """What the scheduler says of a pod that has no machine; None when it has one, or has not been looked at yet."""
    for condition in (pod.status and pod.status.conditions) or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            if condition.reason == "SchedulingGated":
                return _unplaced("something in the cluster holds it back from being placed", final=False)
            return _placing(condition.message or "", growing=bool(latest(events, "TriggeredScaleUp")))
    return None


def _placing(message: str, *, growing: bool) -> Trouble:
    found = _SCHEDULER.search(message)
    if found is None:
        if "no nodes available" in message:
            return _unplaced("the cluster has no machine to run it on", final=False)
        return _unplaced(f"no machine may run it yet: {one_line(message)}", final=False)
    reasons = found["why"].split(", ")
    lacking = sorted({match[1] for reason in reasons if (match := _LACKS.match(reason))})
    hopeless = _NO_USE.search(message)
    # Where even removing others would not help, a node as such is too small; and for ever, where nothing else is said.
    too_large = (
        bool(lacking)
        and hopeless is not None
        and hopeless[1] == found["nodes"]
        and all(_LACKS.match(reason) or _CLOSED_FOR_GOOD.match(reason) for reason in reasons)
    )
    if too_large and not growing:
        return _unplaced(f"no machine of the cluster is large enough for it: it needs more {_listed(lacking)}")
    if _OF_VOLUME.search(found["why"]) and not growing:
        detail = f"no machine that has room can take its volume ({one_line(found['why'])})"
        return Trouble(kind=FailureKind.CANNOT_START, detail=detail, final=False)
    if growing:
        return _unplaced("the cluster is adding a machine for it", final=False)
    if lacking or "Too many pods" in found["why"]:
        what = _listed(lacking) if lacking else "places for agents"
        return _unplaced(f"no machine has enough {what} free for it ({one_line(found['why'])})", final=False)
    return _unplaced(f"no machine may run it yet: {one_line(found['why'])}", final=False)


def not_started(waiting: V1ContainerStateWaiting, image: str, events: Sequence[CoreV1Event] = ()) -> Trouble | None:
    """What the machine says of a container that it has not started; None while that takes its usual course."""
    reason, message = waiting.reason or "", waiting.message or ""
    if reason == "InvalidImageName":
        return Trouble(kind=FailureKind.IMAGE_PULL, detail=f"{one_line(image)!r} is no name of an image")
    if reason in _PULLS:
        # The back-off that follows a failure may not repeat what failed; the event still says it.
        return _pulling(reason, image, _BACK_OFF.sub("", message) or latest(events, "Failed"))
    if reason in _CREATES:
        return _creating(message)
    return _preparing(events)


def _pulling(reason: str, image: str, said: str) -> Trouble:
    name = one_line(image)
    if reason == "ErrImageNeverPull":
        detail = f"the image {name} is not on its machine, and may not be fetched"
        return Trouble(kind=FailureKind.IMAGE_PULL, detail=detail)
    verdict = said.replace(image, "")
    if _NO_SUCH_IMAGE.search(verdict) and not _REGISTRY_AWAY.search(verdict):
        detail = f"the image {name} does not exist, or the cluster may not fetch it: {_innermost(said)}"
        return Trouble(kind=FailureKind.IMAGE_PULL, detail=detail)
    detail = f"the image {name} could not be fetched yet"
    why = _innermost(said)
    return Trouble(kind=FailureKind.IMAGE_PULL, detail=f"{detail}: {why}" if why else detail, final=False)


def _creating(message: str) -> Trouble:
    if "seccomp" in message:
        why = "its machine lacks the seccomp profile that the browser's sandbox needs"
        return Trouble(kind=FailureKind.CANNOT_START, detail=f"{why}: {one_line(message)}")
    detail = f"its machine cannot make its container: {one_line(message) or 'it does not say why'}"
    # A Secret that is just being made, a name that is just being freed: these heal, so the deadline decides.
    return Trouble(kind=FailureKind.CANNOT_START, detail=detail, final=bool(_HARDENING.search(message)))


def _preparing(events: Sequence[CoreV1Event]) -> Trouble | None:
    """Sandbox and volumes come before the container, and only events tell what is wrong with them."""
    sandbox, mount = latest(events, "FailedCreatePodSandBox"), latest(events, "FailedMount", "FailedAttachVolume")
    if found := _NO_RUNTIME.search(sandbox):
        detail = f"its machine has no runtime {found[1] or found[2]!r}, which its runtime class asks for"
        return Trouble(kind=FailureKind.CANNOT_START, detail=detail)
    if sandbox:
        detail = f"its machine cannot make a sandbox for it: {_innermost(sandbox)}"
        return Trouble(kind=FailureKind.CANNOT_START, detail=detail, final="seccomp" in sandbox)
    if mount:
        detail = f"a volume is not there yet: {one_line(mount)}"
        return Trouble(kind=FailureKind.CANNOT_START, detail=detail, final=False)
    return None


def _unplaced(detail: str, *, final: bool = True) -> Trouble:
    return Trouble(kind=FailureKind.UNSCHEDULABLE, detail=detail, final=final)


def _listed(resources: Sequence[str]) -> str:
    return " and ".join(resources)


def _innermost(message: str) -> str:
    """Kubernetes wraps errors from the outside in; the last parts say what happened."""
    return one_line(": ".join(message.split(": ")[-3:]))
