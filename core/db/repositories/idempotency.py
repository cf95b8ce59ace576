"""Answers kept under their Idempotency-Key for 24 hours, in two steps: what was decided, then what was answered.

`answer` is null while nothing is decided, `{"outcome": StartAnswer, "status": null, "body": null}` once the agent's
workflow decided (written in the transaction that registers, so it survives an API that dies before it answers), and
complete once a caller got it. A complete answer never changes.
"""

from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import delete, null, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from core.db.models import Idempotency
from core.db.portions import changed
from core.domain.admission import RejectReason
from core.domain.orders import StartAnswer
from core.errors import KeyReused

KEPT = timedelta(hours=24)


class KeyedBy(BaseModel):
    """A key in its scope (route and project, or agent) and the hash of the body it came with."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    user_id: str
    scope: str
    key: str
    body_hash: str


class Kept(BaseModel):
    """What is known under a key; all None while the first request is under way."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    outcome: StartAnswer | None = None
    status: int | None = None
    body: dict[str, Any] | None = None


def start_scope(project_id: str) -> str:
    return f"start-agent:{project_id}"


def restart_scope(agent_id: str) -> str:
    return f"restart:{agent_id}"


async def claim(session: AsyncSession, by: KeyedBy, now: datetime) -> Kept:
    """Put the key down, or read what is kept under it. Raises `KeyReused` when it came with another body before."""
    fresh = insert(Idempotency).values(**by.model_dump(), answer=null(), created_at=now)
    await session.execute(
        fresh.on_conflict_do_update(
            index_elements=[Idempotency.user_id, Idempotency.scope, Idempotency.key],
            set_={"body_hash": by.body_hash, "answer": null(), "created_at": now},
            where=or_(Idempotency.created_at < now - KEPT, _full_queue()),
        )
    )
    row = await session.get_one(Idempotency, (by.user_id, by.scope, by.key), populate_existing=True)
    if row.body_hash != by.body_hash:
        raise KeyReused("this Idempotency-Key was used with another body", action="use_a_new_key")
    return _kept(row.answer)


async def outcome_of(session: AsyncSession, user_id: str, scope: str, key: str) -> StartAnswer | None:
    """What was decided under the key, if anything was; for whoever is about to decide."""
    query = select(Idempotency.answer).where(
        Idempotency.user_id == user_id, Idempotency.scope == scope, Idempotency.key == key
    )
    return _kept(await session.scalar(query)).outcome


async def record_outcome(session: AsyncSession, by: KeyedBy, outcome: StartAnswer, now: datetime) -> None:
    """Note the decision under the key, in the transaction that decides; a decision that stands is not changed."""
    answer = {"outcome": outcome.model_dump(mode="json"), "status": None, "body": None}
    row = insert(Idempotency).values(**by.model_dump(), answer=answer, created_at=now)
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[Idempotency.user_id, Idempotency.scope, Idempotency.key],
            set_={"answer": answer},
            where=Idempotency.answer.is_(null()),
        )
    )


async def store(
    session: AsyncSession,
    by: KeyedBy,
    outcome: StartAnswer | None,
    status: int,
    body: dict[str, Any],
    *,
    since: datetime | None = None,
) -> Kept:
    """Keep a complete answer and return the one in force: the first stored wins, so that all callers get the same.

    `since` is when its 24 hours begin, where that is not when the key came: an answer may speak of a time to come.
    """
    answer = {"outcome": outcome.model_dump(mode="json") if outcome else None, "status": status, "body": body}
    incomplete = or_(Idempotency.answer.is_(null()), Idempotency.answer["status"].as_integer().is_(None))
    await session.execute(
        update(Idempotency)
        .where(Idempotency.user_id == by.user_id, Idempotency.scope == by.scope, Idempotency.key == by.key, incomplete)
        .values(answer=answer, created_at=since or Idempotency.created_at)
        .execution_options(synchronize_session=False)
    )
    row = await session.get(Idempotency, (by.user_id, by.scope, by.key), populate_existing=True)
    return _kept(row.answer) if row is not None else _kept(answer)


async def forget(session: AsyncSession, user_id: str, scope: str, key: str) -> None:
    """Drop a key whose request came to nothing, so that it may be used again."""
    await session.execute(
        delete(Idempotency).where(Idempotency.user_id == user_id, Idempotency.scope == scope, Idempotency.key == key)
    )


async def purge(session: AsyncSession, now: datetime, most: int) -> int:
    """Delete at most `most` answers whose time is over; return how many."""
    key = (Idempotency.user_id, Idempotency.scope, Idempotency.key)
    old = select(*key).where(Idempotency.created_at < now - KEPT).limit(most).with_for_update(skip_locked=True)
    return await changed(session, delete(Idempotency).where(tuple_(*key).in_(old)))


def _full_queue() -> Any:
    """A refusal by a full queue is no answer to keep: the same key may try again."""
    return Idempotency.answer["outcome"]["reason"].as_string() == RejectReason.QUEUE_FULL.value


def _kept(answer: dict[str, Any] | None) -> Kept:
    return Kept.model_validate(answer) if answer else Kept()
