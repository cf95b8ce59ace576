"""Places in lists that run from the newest back: where a page ended, as text that its cursor carries."""

import base64
import json
from datetime import UTC, datetime

from core.errors import InvalidRequest


def encode(at: datetime, name: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), name]).encode()).decode()


def decode(place: str) -> tuple[datetime, str]:
    """Raises `InvalidRequest` for what `encode` did not make."""
    try:
        at, name = json.loads(base64.urlsafe_b64decode(place.encode("ascii")))
        moment = datetime.fromisoformat(at)
        # What no row can have: a time without a zone or beyond the years of UTC, a name that is no storable text.
        if moment.tzinfo is None or "\x00" in name or not name.encode():
            raise ValueError(place)
        return moment.astimezone(UTC), name
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InvalidRequest("the cursor is not one that Berth gave") from None
