"""Labels and annotations: how objects of ours are found again, and whose they are.

Labels are what the specification names (`app agentId userId projectId`) and `berth.dev/*`. Where an id is no label
value its label is a stand-in, so the full ids are read from annotations.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from core.runtime.base import AgentSpec
from k8s.names import label_value, profile_name

APP = "agent"
INSTALLATION = "berth.dev/installation"
PROFILE = "berth.dev/profile"
# On pods that only keep room for agents: the priority class of those that push them aside.
PLACEHOLDER = "berth.dev/placeholder"
_ATTEMPT = "berth.dev/attempt"
_POOL = "berth.dev/pool"
_AGENT_ID = "berth.dev/agent-id"
_USER_ID = "berth.dev/user-id"
_PROJECT_ID = "berth.dev/project-id"
READY_BY = "berth.dev/ready-by"


# Without these nobody knows whose it is.
NAMING = (_AGENT_ID, _ATTEMPT)


class Marks(BaseModel):
    """Whose an object is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    agent_id: str
    attempt: int
    user_id: str
    project_id: str


def labels(spec: AgentSpec, installation: str) -> dict[str, str]:
    return {
        "app": APP,
        "agentId": label_value(spec.agent_id),
        "userId": label_value(spec.user_id),
        "projectId": label_value(spec.project_id),
        _ATTEMPT: str(spec.attempt),
        _POOL: label_value(spec.pool),
        INSTALLATION: installation,
        PROFILE: profile_name(installation, spec.user_id, spec.project_id),
    }


def annotations(spec: AgentSpec) -> dict[str, str]:
    return {
        _AGENT_ID: spec.agent_id,
        _ATTEMPT: str(spec.attempt),
        _USER_ID: spec.user_id,
        _PROJECT_ID: spec.project_id,
        READY_BY: spec.template.kubernetes.ready_by.value,
    }


def of(manifest: Mapping[str, Any]) -> Marks | None:
    """The marks of an object as JSON; None when it is no agent's, or somebody has taken them off."""
    return read((manifest.get("metadata") or {}).get("annotations") or {})


def read(annotations: Mapping[str, str]) -> Marks | None:
    """The marks among an object's annotations."""
    attempt = annotations.get(_ATTEMPT, "")
    if not annotations.get(_AGENT_ID) or not (attempt.isascii() and attempt.isdigit()):
        return None
    return Marks(
        agent_id=annotations[_AGENT_ID],
        attempt=int(attempt),
        user_id=annotations.get(_USER_ID, ""),
        project_id=annotations.get(_PROJECT_ID, ""),
    )


def is_of(manifest: Mapping[str, Any], installation: str) -> bool:
    """Whether an object as JSON was made by this installation of Berth."""
    return _installation(manifest) == installation


def is_anothers(manifest: Mapping[str, Any], installation: str) -> bool:
    """Whether it is not ours to remove. One of ours stays ours when somebody takes its label off."""
    found = _installation(manifest)
    return of(manifest) is None if found is None else found != installation


def _installation(manifest: Mapping[str, Any]) -> str | None:
    found: str | None = ((manifest.get("metadata") or {}).get("labels") or {}).get(INSTALLATION)
    return found


def selector(installation: str, **more: str) -> str:
    """A label selector for agents of an installation; `agent_id` and `profile` narrow it."""
    wanted = {"app": APP, INSTALLATION: installation}
    if "agent_id" in more:
        wanted["agentId"] = label_value(more["agent_id"])
    if "profile" in more:
        wanted[PROFILE] = more["profile"]
    return ",".join(f"{key}={value}" for key, value in wanted.items())
