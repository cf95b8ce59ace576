"""Cursor pages: `?limit=&cursor=` in, `{"items": [...], "nextCursor": ...}` out."""

import base64
import binascii
import hashlib
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from core.errors import InvalidRequest

Item = TypeVar("Item")
_CHECK_BYTES = 6


class Page(BaseModel, Generic[Item]):
    """`nextCursor` is null on the last page."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)
    items: list[Item]
    next_cursor: str | None = None


Limit = Annotated[int, Query(ge=1, le=200, description="at most so many items")]
Cursor = Annotated[str | None, Query(max_length=2048, description="`nextCursor` of the page before")]


def seal(kind: str, place: str) -> str:
    """`place` as an opaque cursor of lists of `kind`; carries a check, so that a mangled one is noticed."""
    data = place.encode()
    return base64.urlsafe_b64encode(_check(kind, data) + data).decode().rstrip("=")


def unseal(kind: str, cursor: str) -> str:
    """The place that `seal` was given. Raises `InvalidRequest` for anything `seal(kind, ...)` did not return."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        check, data = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        place = data.decode()
    except (ValueError, binascii.Error):
        raise _not_ours() from None
    if check != _check(kind, data) or seal(kind, place) != cursor:
        raise _not_ours()
    return place


def _check(kind: str, data: bytes) -> bytes:
    # No secret: a cursor grants nothing, every page is read under the caller's own rights.
    return hashlib.blake2b(data, digest_size=_CHECK_BYTES, person=kind.encode()[:16]).digest()


def _not_ours() -> InvalidRequest:
    return InvalidRequest("the cursor is not one that Berth gave for this list")
