"""Places in lists that run from the newest back: where a page ended, as text that its cursor carries."""

import base64
import binascii
import json
from datetime import datetime

from core.errors import InvalidRequest


def encode(at: datetime, name: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), name]).encode()).decode()


def decode(place: str) -> tuple[datetime, str]:
    """Raises `InvalidRequest` for what `encode` did not make."""
    try:
        at, name = json.loads(base64.urlsafe_b64decode(place.encode("ascii")))
        moment = datetime.fromisoformat(at)
    except (ValueError, TypeError, binascii.Error):
        raise InvalidRequest("the cursor is not one that Berth gave") from None
    if not isinstance(name, str) or moment.tzinfo is None or "\x00" in name:
        raise InvalidRequest("the cursor is not one that Berth gave")
    return moment, name
