"""What is deleted in portions, each small enough for the time that a statement has."""

from collections.abc import Iterable
from typing import TypeVar

from sqlalchemy import CursorResult, UpdateBase
from sqlalchemy.ext.asyncio import AsyncSession

# What one transaction deletes, and the rest of what is over it: half a second's work, of the 15 s that a statement has.
# More than an artefact may have, so that whoever stores one after the other is not ahead of what goes.
GONE_BYTES = 64 << 20
_Key = TypeVar("_Key")


def portion(sized: Iterable[tuple[_Key, int]]) -> list[_Key]:
    """The first of those that are to go, each with its bytes, until they have `GONE_BYTES`."""
    keys: list[_Key] = []
    left = GONE_BYTES
    for key, size in sized:
        if left <= 0:
            break
        keys.append(key)
        left -= size
    return keys


async def changed(session: AsyncSession, statement: UpdateBase) -> int:
    """Execute it; how many rows it changed or deleted."""
    done = await session.execute(statement)
    return done.rowcount if isinstance(done, CursorResult) else 0
