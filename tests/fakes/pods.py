"""Pods, their events and what happens to them, as Kubernetes 1.34 with containerd writes them."""

from typing import Any

from kubernetes.aio.client import CoreV1Event, V1Pod

IMAGE = "localhost/berth-agent:dev"
JSON_WORD = '{{"code": {code}, "reason": "{reason}", "at": "2026-11-25T20:00:00+00:00"}}\n'


def pod_body(
    name: str = "agent-1",
    *,
    agent_id: str = "ag-1",
    attempt: int = 1,
    image: str = IMAGE,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A pod of one agent as JSON; `status` is its status."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "agents",
            "labels": {"app": "agent", **(labels or {})},
            "annotations": {
                "berth.dev/agent-id": agent_id,
                "berth.dev/attempt": str(attempt),
                "berth.dev/user-id": "ann@example.org",
                "berth.dev/project-id": "project ü",
                **(annotations or {}),
            },
        },
        "spec": {"containers": [{"name": "agent", "image": image}], "restartPolicy": "Never"},
        "status": status,
    }


def pod(*, deleted: bool = False, **made: Any) -> V1Pod:
    body = pod_body(**made)
    body["metadata"] |= {"uid": f"uid-{body['metadata']['name']}", "creationTimestamp": "2026-11-25T20:00:00Z"}
    if deleted:
        body["metadata"] |= {"deletionTimestamp": "2026-11-25T20:01:00Z", "deletionGracePeriodSeconds": 30}
    made_pod = V1Pod.from_dict(body)
    assert made_pod is not None
    return made_pod


def event(reason: str, message: str, type_: str = "Warning") -> CoreV1Event:
    made = CoreV1Event.from_dict(
        {"metadata": {"name": "e"}, "involvedObject": {}, "type": type_, "reason": reason, "message": message}
    )
    assert made is not None
    return made


def container(state: dict[str, Any], *, ready: bool = False, image: str = IMAGE) -> dict[str, Any]:
    return {"name": "agent", "image": image, "imageID": "", "ready": ready, "restartCount": 0, "state": state}


def condition(kind: str, status: str, reason: str | None = None, message: str | None = None) -> dict[str, Any]:
    words = {"reason": reason, "message": message}
    return {"type": kind, "status": status, **{key: word for key, word in words.items() if word is not None}}


def running(*, ready: bool = False) -> dict[str, Any]:
    state = {"running": {"startedAt": "2026-11-25T20:00:01Z"}}
    ready_word = "True" if ready else "False"
    return {
        "phase": "Running",
        "containerStatuses": [container(state, ready=ready)],
        "conditions": [condition("PodScheduled", "True"), condition("Ready", ready_word)],
    }


def waiting(reason: str, message: str = "", image: str = IMAGE) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "containerStatuses": [container(state, image=image)],
        "conditions": [condition("PodScheduled", "True"), condition("Ready", "False", "ContainersNotReady")],
    }


def unschedulable(message: str) -> dict[str, Any]:
    return {"phase": "Pending", "conditions": [condition("PodScheduled", "False", "Unschedulable", message)]}


def ended(code: int, reason: str = "Error", message: str = "", **more: Any) -> dict[str, Any]:
    """The container has ended; the pod's own phase says Running for a second more."""
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"phase": "Running", "containerStatuses": [container(state)], **more}


def disrupted(by: str, message: str = "") -> dict[str, Any]:
    return condition("DisruptionTarget", "True", by, message)
