"""Locks of things that may have no row yet: one transaction at a time, each held to its end.

Taken in this order where several are: the user's, the project's, the cluster's; rows after them all.
"""

from enum import IntEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


class _Kind(IntEnum):
    """Keeps equal names of different things apart. All releases that may run at once must agree on these."""

    USER = 1
    CLUSTER = 2
    PROJECT = 3
    BOOKINGS = 4


async def cluster(session: AsyncSession, name: str) -> None:
    """Let one transaction at a time give or free room of a cluster."""
    await _lock(session, _Kind.CLUSTER, name)


async def user(session: AsyncSession, user_id: str) -> None:
    """Let one transaction at a time count and add a user's agents."""
    await _lock(session, _Kind.USER, user_id)


async def project(session: AsyncSession, project_id: str) -> None:
    """Let one transaction at a time count and add a project's agents."""
    await _lock(session, _Kind.PROJECT, project_id)


async def bookings(session: AsyncSession, user_id: str) -> None:
    """Let one transaction at a time count and add a user's scheduled starts; nothing else is locked under it."""
    await _lock(session, _Kind.BOOKINGS, user_id)


_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, :kind))")


async def _lock(session: AsyncSession, kind: _Kind, name: str) -> None:
    await session.execute(_LOCK, {"name": name, "kind": kind.value})
