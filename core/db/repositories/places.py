"""Places in lists that run from the newest back: where a page ended, as text that its cursor carries."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import Select, and_, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from core.errors import InvalidRequest

Row = TypeVar("Row")


async def page(
    session: AsyncSession,
    query: Select[Row],
    at: InstrumentedAttribute[datetime],
    name: InstrumentedAttribute[str],
    limit: int,
    cursor: str | None,
) -> tuple[Sequence[Row], str | None]:
    """One page of `query`'s rows, those with the latest `at` first, and the cursor of the next page.

    `name` tells rows of one moment apart. Raises `InvalidRequest` for a cursor that is none.
    """
    if cursor is not None:
        moment, last = decode(cursor)
        query = query.where(or_(at < moment, and_(at == moment, name < last)))
    found = (await session.scalars(query.order_by(at.desc(), name.desc()).limit(limit + 1))).all()
    rows = found[:limit]
    onward = encode(getattr(rows[-1], at.key), getattr(rows[-1], name.key)) if len(found) > limit else None
    return rows, onward


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
