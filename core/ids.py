"""Identifiers: what they are made of, and the names derived from them."""

import hashlib
import secrets
import time
from typing import NewType
from urllib.parse import quote
from uuid import UUID

AgentId = NewType("AgentId", str)
CommandId = NewType("CommandId", str)

MAX_ID_BYTES = 256
# Temporal refuses ids over 1,000 bytes (limit.maxIDLength); two parts and a prefix must stay under it.
_MAX_ENCODED_PART = 480
_SCHEDULED = "ss-"
_SCHEDULED_WORKFLOW = "scheduled-start/"


class MalformedId(ValueError):
    """An outside id that Berth cannot carry: empty, over 256 bytes of UTF-8, or with control characters."""


def check_id(value: str, what: str) -> str:
    """Return `value` when it can be an id of `what`, else raise `MalformedId` with a sentence for the caller."""
    if not value or value in {".", ".."}:
        raise MalformedId(f"{what} must not be empty, '.' or '..'")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise MalformedId(f"{what} is not valid Unicode") from None
    if size > MAX_ID_BYTES:
        raise MalformedId(f"{what} is {size} bytes long, at most {MAX_ID_BYTES} are allowed")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value):
        raise MalformedId(f"{what} must not contain control characters")
    return value


def new_uuid7() -> UUID:
    """A time-ordered UUID (RFC 9562, version 7); the standard library has one from Python 3.14 on."""
    millis = time.time_ns() // 1_000_000
    value = (millis & (1 << 48) - 1) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=value)


def new_agent_id() -> AgentId:
    """A fresh agent id: a DNS label of 35 characters, so it can be a pod's or a folder's name as it is."""
    return AgentId(f"ag-{new_uuid7().hex}")


def new_command_id() -> CommandId:
    return CommandId(f"cmd-{new_uuid7().hex}")


def new_scheduled_start_id() -> str:
    return f"{_SCHEDULED}{new_uuid7().hex}"


def agent_of_scheduled(scheduled_start_id: str) -> AgentId:
    """The id of the one agent that a scheduled start may make, however often it is tried."""
    return AgentId(f"ag-{scheduled_start_id.removeprefix(_SCHEDULED)}")


def new_maintenance_id() -> str:
    return f"mt-{new_uuid7().hex}"


def maintenance_workflow_id(maintenance_id: str) -> str:
    return f"maintenance/{_part(maintenance_id)}"


def scheduled_workflow_id(scheduled_start_id: str) -> str:
    return f"{_SCHEDULED_WORKFLOW}{scheduled_start_id}"


def scheduled_of_workflow(workflow_id: str) -> str | None:
    """The scheduled start that a workflow of this id waits for; None when the id is none that we give."""
    name = workflow_id.removeprefix(_SCHEDULED_WORKFLOW)
    return name if name != workflow_id and name.startswith(_SCHEDULED) else None


def agent_workflow_id(user_id: str, project_id: str) -> str:
    """The one workflow id of a user's project: `agent/{user}/{project}`, unambiguous and under Temporal's limit.

    Parts are percent-encoded, so `a/b` + `c` and `a` + `b/c` differ. An encoded part over 480 bytes keeps its head
    and ends in a SHA-256 behind `%~`, which no percent-encoding contains.
    """
    return f"agent/{_part(user_id)}/{_part(project_id)}"


def pool_workflow_id(pool: str) -> str:
    return f"pool/{_part(pool)}"


def notices_workflow_id(channel: str) -> str:
    return f"notices/{_part(channel)}"


def _part(value: str) -> str:
    encoded = quote(value, safe="")
    if len(encoded) <= _MAX_ENCODED_PART:
        return encoded
    return f"{encoded[:300]}%~{hashlib.sha256(value.encode()).hexdigest()}"


def keyword(value: str) -> str:
    """`value` as a Temporal Keyword search attribute, which SQL visibility stores in 255 characters."""
    if len(value) <= 255:
        return value
    return f"{value[:180]}~{hashlib.sha256(value.encode()).hexdigest()}"
