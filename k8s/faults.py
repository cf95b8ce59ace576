"""What an API server's refusal means to us. Pure; the only place that reads its words."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from core.errors import RuntimeFault, RuntimePermanent, RuntimeRetryable

_MOST = 500
RIGHTS_MISSING = "cluster_rights_missing"
QUOTA_EXCEEDED = "cluster_quota_exceeded"
# Kubernetes says 403 for all of these, and only the message tells them apart.
_QUOTA = re.compile(r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>.+?), used: .*?, limited: (?P<limit>.+)$")
_RIGHTS = re.compile(r'^.*User "(?P<who>[^"]+)" cannot (?P<verb>\S+) resource "(?P<what>[^"]+)"')
_LATER = re.compile(
    r"error looking up service account|being terminated|not yet ready to handle request|quota.*timed out"
)


class NotThere(RuntimeRetryable):
    """404: the object, or the namespace it would be in."""


class AlreadyThere(RuntimePermanent):
    """409: an object of that name exists."""


class TooOld(RuntimeRetryable):
    """410: the point to watch from is forgotten; list again."""


class Refusal(BaseModel):
    """A `Status` of the API server, as far as it is one."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    code: int
    reason: str = ""
    message: str = ""
    details: Mapping[str, Any] = {}

    @classmethod
    def of(cls, code: int, body: bytes) -> "Refusal":
        try:
            status = json.loads(body)
        except ValueError:
            status = None
        if not isinstance(status, dict) or status.get("kind") != "Status":
            return cls(code=code, message=body[:_MOST].decode(errors="replace").strip())
        details = status.get("details")
        return cls(
            code=code,
            reason=str(status.get("reason") or ""),
            message=str(status.get("message") or "")[:_MOST],
            details=details if isinstance(details, dict) else {},
        )


def fault_of(refusal: Refusal, doing: str) -> RuntimeFault:
    """The error for a refused call; `doing` says in words for people what it was to do."""
    said = refusal.message or refusal.reason or f"HTTP {refusal.code}"
    match refusal.code:
        case 401:
            return RuntimeRetryable("the cluster does not accept our credentials: they are wrong or have expired")
        case 403:
            return _forbidden(refusal, doing)
        case 404:
            if refusal.details.get("kind") == "namespaces" or 'namespaces "' in said:
                return NotThere(f"{doing}: the cluster has no namespace {refusal.details.get('name', '')!r}")
            return NotThere(f"{doing}: {said}")
        case 409 if refusal.reason == "AlreadyExists":
            return AlreadyThere(f"{doing}: {said}")
        case 410:
            return TooOld(f"{doing}: {said}")
        case 400 | 405 | 406 | 413 | 415 | 422:
            return RuntimePermanent(f"{doing}: the cluster takes it for invalid: {said}")
        case 429:
            return RuntimeRetryable(f"{doing}: the cluster is asked too much right now")
        case _:
            # A conflict with another writer, a server that is ill or just starting.
            return RuntimeRetryable(f"{doing}: the cluster answered {refusal.code}: {said}")


def _forbidden(refusal: Refusal, doing: str) -> RuntimeFault:
    said = refusal.message
    if quota := _QUOTA.search(said):
        return RuntimeRetryable(
            f"{doing}: the cluster's quota {quota['name']} is used up (it allows {quota['limit']})",
            code=QUOTA_EXCEEDED,
        )
    if rights := _RIGHTS.search(said):
        # An operator mends it while we try; nothing is wrong with what was asked.
        return RuntimeRetryable(
            f"{doing}: {rights['who']} may not {rights['verb']} {rights['what']} there; its role lacks that verb",
            code=RIGHTS_MISSING,
        )
    if _LATER.search(said):
        return RuntimeRetryable(f"{doing}: {said}")
    return RuntimePermanent(f"{doing}: the cluster's rules forbid it: {said}")
