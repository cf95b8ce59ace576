"""Opaque cursors: a place in a list or stream as text that whoever holds it hands back unread. Pure."""

import base64
import binascii
import hashlib

# Of a user's events, for `/ws/events?after=`.
USER_EVENTS = "user-events"
_CHECK_BYTES = 6


def seal(kind: str, place: str) -> str:
    """`place` as an opaque cursor of lists of `kind`; carries a check, so that a mangled one is noticed."""
    data = place.encode()
    return base64.urlsafe_b64encode(_check(kind, data) + data).decode().rstrip("=")


def unseal(kind: str, cursor: str) -> str:
    """The place that `seal` was given. Raises ValueError for anything `seal(kind, ...)` did not return."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        check, data = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        place = data.decode()
    except (ValueError, binascii.Error):
        raise ValueError("the cursor cannot be read") from None
    if check != _check(kind, data) or seal(kind, place) != cursor:
        raise ValueError("the cursor is of something else")
    return place


def _check(kind: str, data: bytes) -> bytes:
    # No secret: a cursor grants nothing, every page is read under the caller's own rights.
    return hashlib.blake2b(data, digest_size=_CHECK_BYTES, person=kind.encode()[:16]).digest()
