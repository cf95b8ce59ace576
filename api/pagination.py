"""Cursor pages: `?limit=&cursor=` in, `{"items": [...], "nextCursor": ...}` out."""

from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from core.domain import cursors
from core.errors import InvalidRequest

Item = TypeVar("Item")
seal = cursors.seal


class Page(BaseModel, Generic[Item]):
    """`nextCursor` is null on the last page."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)
    items: list[Item]
    next_cursor: str | None = None


Limit = Annotated[int, Query(ge=1, le=200, description="at most so many items")]
Cursor = Annotated[str | None, Query(max_length=2048, description="`nextCursor` of the page before")]


def unseal(kind: str, cursor: str) -> str:
    """The place that `seal` was given. Raises `InvalidRequest` for anything `seal(kind, ...)` did not return."""
    try:
        return cursors.unseal(kind, cursor)
    except ValueError:
        raise InvalidRequest("the cursor is not one that Berth gave for this list") from None
