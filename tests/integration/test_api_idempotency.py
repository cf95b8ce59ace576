"""What is kept under a key: the first complete answer, for a day."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from core.db.engine import Db
from core.db.repositories import idempotency, upkeep
from core.db.repositories.idempotency import Kept, KeyedBy
from core.domain.orders import StartAnswer, StartOutcome
from core.errors import KeyReused
from tests.fixtures.api import Api

BY = KeyedBy(user_id="ann", scope=idempotency.start_scope("shop"), key="k", body_hash="h")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = StartAnswer(outcome=StartOutcome.CREATED, agent_id="ag-1")
EXISTING = StartAnswer(outcome=StartOutcome.EXISTING, agent_id="ag-2")


async def _claim(db: Db, at: datetime = NOW, by: KeyedBy = BY) -> Kept:
    async with db.transaction() as session:
        return await idempotency.claim(session, by, at)


async def _store(db: Db, word: str) -> Kept:
    async with db.transaction() as session:
        return await idempotency.store(session, BY, CREATED, 201, {"word": word})


async def test_first_complete_answer_is_given_to_all_who_come_later_with_another(db: Db) -> None:
    await _claim(db)
    kept = await asyncio.gather(*(_store(db, f"answer {n}") for n in range(10)))
    assert len({str(each.body) for each in kept}) == 1
    assert (await _claim(db)).body == kept[0].body


async def test_decision_is_noted_once_and_never_over_an_answer(db: Db) -> None:
    async with db.transaction() as session:
        await idempotency.record_outcome(session, BY, CREATED, NOW)
        await idempotency.record_outcome(session, BY, EXISTING, NOW)
    assert await _claim(db) == Kept(outcome=CREATED)
    await _store(db, "done")
    async with db.transaction() as session:
        await idempotency.record_outcome(session, BY, EXISTING, NOW)
    assert (await _claim(db)).body == {"word": "done"}


async def test_claims_at_once_agree(db: Db) -> None:
    assert await asyncio.gather(*(_claim(db) for _ in range(20))) == [Kept()] * 20
    with pytest.raises(KeyReused):
        await _claim(db, by=BY.model_copy(update={"body_hash": "other"}))


async def test_key_is_free_again_after_a_day(db: Db) -> None:
    await _claim(db)
    await _store(db, "old")
    assert (await _claim(db, NOW + timedelta(hours=23))).body == {"word": "old"}
    other = BY.model_copy(update={"body_hash": "other"})
    assert await _claim(db, NOW + timedelta(hours=25), other) == Kept()


async def test_old_answers_and_unused_tickets_are_forgotten(api: Api) -> None:
    await api.start(key="old")
    await api.ask("POST", "/api/ticket")
    await api.sql("UPDATE idempotency SET created_at = now() - interval '25 hours' RETURNING key")
    await api.sql("UPDATE tickets SET expires_at = now() - interval '1 second' RETURNING kind")
    await api.start(key="new")
    await api.ask("POST", "/api/ticket")
    async with api.app.state.deps.db.transaction() as session:
        await upkeep.forget_old(session, datetime.now(UTC))
    assert await api.sql("SELECT key FROM idempotency") == [{"key": "new"}]
    assert await api.sql("SELECT count(*) AS n FROM tickets") == [{"n": 1}]
