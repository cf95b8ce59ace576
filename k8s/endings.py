"""Why a pod that started came to its end: our own last word, the exit code, then what Kubernetes says of it."""

import re
from collections.abc import Sequence

from kubernetes.aio.client import CoreV1Event, V1ContainerStateTerminated, V1PodStatus
from pydantic import ValidationError

from core.domain.excerpts import one_line
from core.domain.recovery import FailureKind
from core.domain.wire import AgentExit, Exit
from core.runtime.exits import failure_of, told_of
from k8s.trouble import Trouble, latest

_DISRUPTIONS = {
    "EvictionByEvictionAPI": "it was asked to leave its machine, as when one is emptied for maintenance",
    "PreemptionByScheduler": "something more important needed its place",
    "DeletionByPodGC": "its machine is no part of the cluster any more",
    "DeletionByTaintManager": "its machine was closed to it or does not answer",
    "TerminationByKubelet": "its machine ran short of something or was shut down",
}
# What the cluster does to its machines, in order or not, for no fault of the agent. The kubelet's own reasons are none
# of these: a machine that ran short may have run short by this agent.
_HOST_TAKEN = frozenset({"DeletionByPodGC", "DeletionByTaintManager", "EvictionByEvictionAPI", "PreemptionByScheduler"})
# Words of the kubelet in a pod's status: its machine went down under it, in order or not.
_HOST_DOWN = frozenset({"NodeLost", "NodeShutdown", "Shutdown", "Terminated", "ContainerStatusUnknown"})
# How a container ends that was told or made to: an image that is not ours may take SIGTERM for an order to end well.
TOLD_OR_KILLED = frozenset({0, AgentExit.KILLED.value, AgentExit.TOLD_BY_HOST.value})
# Failed readiness is an event too, and ends nothing.
_ENDS = re.compile(r"(Liveness|Startup) probe (failed|errored)")
# The runtime could not even run the program: a second try runs the same one.
_NEVER_RAN = frozenset({"StartError", "ContainerCannotRun"})


def disruption(status: V1PodStatus) -> str:
    """The reason the cluster itself gave for ending the pod; empty when it did not."""
    for condition in status.conditions or []:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return condition.reason or "Disruption"
    return ""


def put_off(status: V1PodStatus) -> Trouble | None:
    """What the cluster did to a pod, whatever its containers say; None when it left it alone."""
    why = status.reason or ""
    if why in _HOST_DOWN:
        return Trouble(kind=FailureKind.HOST_LOST, detail=_because("its machine went down", status.message))
    if why == "Evicted":
        return Trouble(kind=FailureKind.EVICTED, detail=_because("its machine made it leave", status.message))
    if why == "DeadlineExceeded":
        return Trouble(kind=FailureKind.EXITED, detail="it ran longer than its pod may")
    if by := disruption(status):
        kind = FailureKind.HOST_LOST if by in _HOST_TAKEN else FailureKind.EVICTED
        return Trouble(kind=kind, detail=_DISRUPTIONS.get(by, f"the cluster ended it: {one_line(by)}"))
    if why:
        # The machine's own refusal of a pod that the scheduler had sent there: OutOfcpu, NodeAffinity and the like.
        return Trouble(kind=FailureKind.EVICTED, detail=_because(f"its machine refused it ({why})", status.message))
    return None


def last_word(ended: V1ContainerStateTerminated) -> Exit | None:
    """The line our agent leaves, which is the last one when the tail of its log came with it."""
    for line in reversed((ended.message or "").splitlines()):
        try:
            return Exit.model_validate_json(line)
        except ValidationError:
            continue
    return None


def knows_why(said: Exit | None) -> bool:
    """Whether an agent's last word tells the cause: who was told to go by a signal was not told what for."""
    return said is not None and said.code is not AgentExit.TOLD_BY_HOST


def ending(ended: V1ContainerStateTerminated, events: Sequence[CoreV1Event] = ()) -> Trouble | None:
    """What a container's end means; None when it left as Berth had ordered.

    `OOMKilled` is said of every container in which something was once killed for memory, also of one that lived on and
    left in order, so it counts only where neither the agent's own word nor the exit code tells.
    """
    code, reason, for_memory = ended.exit_code, ended.reason or "", ended.reason == "OOMKilled"
    said = last_word(ended)
    # Also when it was killed while it carried out what it had said.
    if said is not None and code not in (said.code, AgentExit.KILLED, AgentExit.TOLD_BY_HOST):
        said = None
    if not knows_why(said):
        if reason in _HOST_DOWN:
            return Trouble(kind=FailureKind.HOST_LOST, detail=_because("its machine went down", ended.message))
        if reason in _NEVER_RAN:
            return Trouble(
                kind=FailureKind.CANNOT_START, detail=_because("its program could not be run", ended.message)
            )
        if code in TOLD_OR_KILLED and (probe := _failed_probe(events)):
            return probe
    if said is not None:
        meant = failure_of(said.code, killed_for_memory=for_memory)
        return Trouble(kind=meant, detail=told_of(code, said=said.reason)) if meant else None
    kind = failure_of(code, killed_for_memory=for_memory)
    return Trouble(kind=kind, detail=told_of(code, log=ended.message, failure=kind)) if kind else None


def _failed_probe(events: Sequence[CoreV1Event]) -> Trouble | None:
    """The kubelet stopped it for not answering; only events say so, and the stop itself does not say why."""
    if not latest(events, "Killing"):
        return None
    failed = [event for event in events if event.reason == "Unhealthy" and _ENDS.match(event.message or "")]
    why = latest(failed, "Unhealthy")
    if why.startswith("Startup"):
        return Trouble(kind=FailureKind.START_DEADLINE, detail=_because("it did not come up in time", why))
    if why:
        return Trouble(kind=FailureKind.HEALTH, detail=_because("it did not answer and was stopped", why))
    return None


def _because(what: str, why: str | None) -> str:
    text = one_line(why)
    return f"{what}: {text}" if text else what
