"""Webhooks as they go over the wire: the body, and the signature of the Standard Webhooks specification (v1). Pure."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence

from core.domain.cursors import USER_EVENTS, seal
from core.domain.notices import Happened

MOST_BYTES = 64 * 1024
_PREFIX = "whsec_"
_LEAST_BYTES = 24
MAKE_ONE = 'echo "whsec_$(openssl rand -base64 32)"'


def body_of(happened: Happened) -> bytes:
    """The same event gives the same bytes, at every try. A detail that would make it too long is left out."""
    body = _written(happened, happened.detail)
    return body if len(body) <= MOST_BYTES else _written(happened, {"truncated": True})


def _written(happened: Happened, detail: object) -> bytes:
    told = {
        "type": happened.kind.value,
        "timestamp": happened.at.isoformat(),
        "data": {
            "agentId": happened.agent_id,
            "userId": happened.user_id,
            "projectId": happened.project_id,
            "seq": happened.seq,
            "cursor": seal(USER_EVENTS, str(happened.cursor)),
            "state": happened.state.value if happened.state else None,
            "reason": happened.reason,
            "detail": detail,
        },
    }
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode()


def headers_of(notice_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """`timestamp` is the time of the try, in Unix seconds. Each key signs, so that one may be changed for another."""
    signed = f"{notice_id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": notice_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def keys_of(secrets: str) -> tuple[bytes, ...]:
    """The keys of secrets that stand with commas between them. Raises ValueError, which does not repeat them."""
    found = tuple(_key(secret.strip()) for secret in secrets.split(",") if secret.strip())
    if not found:
        raise ValueError(f"WEBHOOK__SECRETS holds none; make one: {MAKE_ONE}")
    return found


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else b""
    except binascii.Error:
        key = b""
    if len(key) < _LEAST_BYTES:
        raise ValueError(
            f"each of WEBHOOK__SECRETS is `whsec_` and base64 of {_LEAST_BYTES} bytes or more; make one: {MAKE_ONE}"
        )
    return key
