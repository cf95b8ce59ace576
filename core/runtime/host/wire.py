"""What the host supervisor and its clients say to each other, for values that carry a secret or an error."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.domain.sizes import Size
from core.domain.templates import Template
from core.errors import NeverSatisfiable, RuntimeFault, RuntimePermanent, RuntimeRetryable
from core.runtime.base import AgentSpec, Owner, Reach

MAX_BODY_BYTES = 1 << 20
# An idle watch carries an empty line this often, so that its reader can tell silence from death.
KEEP_ALIVE_SECONDS = 5.0
_WANTED = TypeAdapter(dict[str, Template])

_FAULTS: dict[str, tuple[type[RuntimeFault], int]] = {
    RuntimeRetryable.code: (RuntimeRetryable, 503),
    RuntimePermanent.code: (RuntimePermanent, 409),
    NeverSatisfiable.code: (NeverSatisfiable, 409),
}


class Fault(BaseModel):
    model_config = ConfigDict(frozen=True)
    code: str
    detail: str


class Profile(BaseModel):
    """Whose profile to forget; a body, because these ids may hold any character."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    user_id: str
    project_id: str


class Resize(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    size: Size


class Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    template: Template


class Prune(BaseModel):
    """What to clear away: profiles unused for so long, but for those to keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unused_seconds: float = Field(ge=0)
    keep: tuple[Owner, ...]


class Elsewhere(BaseModel):
    """What the agent would be begun as, and as an answer the machine it is on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    template: Template = Template()
    node: str = ""


def dump_spec(spec: AgentSpec) -> bytes:
    """JSON with the secrets in clear: for the private socket only."""
    data = spec.model_dump(mode="json")
    data["token"] = spec.token.get_secret_value()
    if spec.model is not None:
        data["model"]["api_key"] = spec.model.api_key.get_secret_value()
    return json.dumps(data).encode()


def dump_wanted(wanted: Mapping[str, Template]) -> str:
    """What of templates decides where there is room for them."""
    return _WANTED.dump_json({name: each.placed_by() for name, each in wanted.items()}, exclude_defaults=True).decode()


def wanted_of(text: str) -> dict[str, Template]:
    """Raises `ValidationError`."""
    return _WANTED.validate_json(text)


def dump_reach(reach: Reach) -> dict[str, Any]:
    return {**reach.model_dump(mode="json"), "token": reach.token.get_secret_value()}


def fault_of(error: RuntimeFault) -> tuple[int, Fault]:
    _, status = _FAULTS.get(error.code, (RuntimeFault, 503))
    return status, Fault(code=error.code, detail=error.detail)


def error_of(status: int, body: bytes) -> RuntimeFault:
    """The error behind an answer that is no success. Refusals of the request itself are permanent."""
    try:
        fault = Fault.model_validate_json(body)
    except ValidationError:
        fault = Fault(code="", detail=f"the host supervisor answered {status}")
    kind, _ = _FAULTS.get(fault.code, (RuntimePermanent if 400 <= status < 500 else RuntimeRetryable, 0))
    return kind(fault.detail)
