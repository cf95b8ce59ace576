"""An agent's pod as the rest of Berth sees it: whose it is, from its annotations, and how it is, by diagnosis."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes.aio.client import CoreV1Event, V1Pod

from core.runtime.base import Handle, Observation
from k8s import marks
from k8s.diagnose import Diagnosis, diagnose

RUNTIME = "kubernetes"
_META = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "annotations", "labels")
_STATUSES = ("initContainerStatuses", "containerStatuses")


def observation_of(pod: V1Pod, events: Sequence[CoreV1Event] = ()) -> Observation:
    """Raises ValueError for a pod that is no agent's."""
    return observed(pod, diagnose(pod, events))


def pod_of(manifest: Mapping[str, Any]) -> V1Pod:
    """Of a pod as JSON what we read: a model of the whole costs several times as much, and there are thousands."""
    meta, spec, status = (manifest.get(part) or {} for part in ("metadata", "spec", "status"))
    slim = {
        "metadata": {key: meta[key] for key in _META if key in meta},
        "spec": {key: [_named(each) for each in spec.get(key) or []] for key in ("containers", "initContainers")}
        | {"nodeName": spec.get("nodeName")},
        "status": {key: status[key] for key in ("phase", "reason", "message", "conditions") if key in status}
        | {key: [_state(each) for each in status.get(key) or []] for key in _STATUSES},
    }
    pod = V1Pod.from_dict(slim)
    assert pod is not None  # noqa: S101  of a mapping there always is one
    return pod


def observed(pod: V1Pod, found: Diagnosis) -> Observation:
    """Raises ValueError for a pod that is no agent's."""
    meta = pod.metadata
    mark = marks.read((meta and meta.annotations) or {})
    if mark is None:
        raise ValueError("the pod does not say which attempt of which agent it is")
    native = {"namespace": meta.namespace, "pod": meta.name, "uid": meta.uid} if meta else {}
    return Observation(
        agent_id=mark.agent_id,
        attempt=mark.attempt,
        phase=found.phase,
        exit_code=found.exit_code,
        failure=found.failure,
        detail=found.detail,
        created_at=meta.creation_timestamp if meta else None,
        user_id=mark.user_id,
        project_id=mark.project_id,
        handle=Handle(runtime=RUNTIME, agent_id=mark.agent_id, attempt=mark.attempt, native=native),
        node=(pod.spec and pod.spec.node_name) or "",
    )


def _named(container: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": container.get("name"), "image": container.get("image")}


def _state(status: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": status.get("name"),
        "image": status.get("image"),
        "imageID": "",
        "ready": status.get("ready", False),
        "restartCount": status.get("restartCount", 0),
        "state": status.get("state"),
    }
