"""start-agent with a time: booked once a key, listed, taken back, by its own user and nobody else."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from core.db.repositories import locks
from core.domain.schedule import MOST_PENDING
from core.domain.tiers import Tier
from core.errors import Unavailable
from tests.fixtures.api import Api, replica

AWAY = Unavailable("nobody there", code="temporal_unavailable")


def ahead(**time: float) -> str:
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


async def booked(api: Api, start_at: str | None = None, **kw: Any) -> dict[str, Any]:
    answer = await api.start(json={"startAt": start_at or ahead(hours=1)}, **kw)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert found["status"] == "scheduled"
    return found


async def listed(api: Api, user_id: str = "owner", query: str = "") -> list[dict[str, Any]]:
    answer = await api.ask("GET", f"/api/scheduled-starts{query}", user_id)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def end(api: Api, scheduled_start_id: str, state: str) -> None:
    statement = (
        "UPDATE scheduled_starts SET state = :state, ended_at = now() WHERE scheduled_start_id = :id RETURNING 1"
    )
    await api.sql(statement, state=state, id=scheduled_start_id)


async def test_time_to_come_is_booked_in_utc_and_makes_no_agent_and_takes_no_quota(api: Api) -> None:
    at = (datetime.now(UTC) + timedelta(days=3)).astimezone(timezone(timedelta(hours=1)))
    answer = await api.start(json={"startAt": at.isoformat(), "template": "default"})
    assert answer.status_code == 202
    body = answer.json()
    assert set(body) == {"status", "scheduledStartId", "startAt"}
    assert body["startAt"] == at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    assert api.lives.scheduled.begun == {body["scheduledStartId"]: at}
    (found,) = await listed(api)
    assert (found["state"], found["projectId"], found["template"]) == ("scheduled", "shop", "default")
    assert (found["agentId"], found["reason"], found["endedAt"]) == (None, None, None)
    assert await api.sql("SELECT agent_id FROM agents") == []
    assert (await api.ask("GET", "/api/me")).json()["used"] == 0
    assert (await api.start()).status_code == 201, "one to come is in nobody's way"


@pytest.mark.parametrize("time", [{"seconds": 0}, {"hours": -1}, {"days": -400}])
async def test_time_that_has_passed_is_an_ordinary_start(api: Api, time: dict[str, float]) -> None:
    answer = await api.start(json={"startAt": ahead(**time)})
    assert (answer.status_code, answer.json()["status"]) == (201, "created")
    assert await listed(api) == []


@pytest.mark.parametrize(
    "value", ["2026-12-01T09:00:00", "2026-12-01T09:00:00+25:00", "2026-12-01", "soon", "", 1764576000, True, [], {}]
)
async def test_time_without_a_zone_or_sense_is_refused_with_its_own_code(api: Api, value: Any) -> None:
    for path in ("start-agent", "explain-start"):
        answer = await api.ask("POST", f"/api/projects/shop/{path}", json={"startAt": value})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_start_at"), answer.text
        assert answer.json()["detail"].startswith("startAt is no time that Berth can keep: it ")
    assert await listed(api) == []


async def test_project_that_is_called_like_a_user_holds_no_booking_of_that_user_up(api: Api) -> None:
    async with api.db.transaction() as session:
        await locks.project(session, "owner")
        await asyncio.wait_for(booked(api), 10)


async def test_more_than_a_month_ahead_is_too_far(api: Api) -> None:
    for at in (ahead(days=30, minutes=1), "9999-12-31T23:59:59Z"):
        answer = await api.start(json={"startAt": at}, key="k")
        assert (answer.status_code, answer.json()["code"]) == (422, "start_at_too_far")
    assert (await api.start(json={"startAt": ahead(days=29, hours=23)}, key="k")).status_code == 202, "the key is free"


async def test_unknown_template_is_refused_at_once(api: Api) -> None:
    answer = await api.start(json={"startAt": ahead(hours=1), "template": "nothing"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_template")


async def test_hundred_calls_with_one_key_over_two_replicas_book_one_start(api: Api) -> None:
    at = ahead(hours=1)
    async with replica(api.db, api.settings, api.lives) as other:
        answers = await asyncio.gather(*(booked((api, other)[n % 2], at, key="once") for n in range(100)))
    assert len({answer["scheduledStartId"] for answer in answers}) == 1
    assert len(await listed(api)) == 1


async def test_same_key_gives_the_same_start_also_after_it_ran_and_the_same_moment_in_another_zone(api: Api) -> None:
    at = datetime.now(UTC) + timedelta(days=2)
    first = await booked(api, at.isoformat(), key="k")
    elsewhere = at.astimezone(timezone(timedelta(hours=-7))).isoformat()
    assert await booked(api, elsewhere, key="k") == first
    await end(api, first["scheduledStartId"], "started")
    await api.sql("UPDATE scheduled_starts SET start_at = start_at - interval '3 days' RETURNING 1")
    await api.sql("UPDATE idempotency SET created_at = created_at - interval '2 days 23 hours' RETURNING 1")
    assert await booked(api, at.isoformat(), key="k") == first
    other = await api.start(json={"startAt": ahead(hours=1)}, key="k")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (await api.start(key="k")).json()["code"] == "idempotency_key_reused"


async def test_key_of_a_start_and_key_of_a_start_to_come_are_of_one_scope(api: Api) -> None:
    assert (await api.start(key="k")).status_code == 201
    assert (await api.start(json={"startAt": ahead(hours=1)}, key="k")).json()["code"] == "idempotency_key_reused"
    await api.member("owner", ["second"], Tier.BASIC)
    assert await booked(api, key="k", project_id="second")


async def test_start_is_promised_while_temporal_is_away(api: Api) -> None:
    api.lives.scheduled.away = AWAY
    await booked(api)
    assert len(await listed(api)) == 1


async def test_list_comes_in_pages_newest_first_and_by_state(api: Api) -> None:
    ids = [(await booked(api))["scheduledStartId"] for _ in range(5)]
    await end(api, ids[0], "started")
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = (await api.ask("GET", f"/api/scheduled-starts?limit=2{cursor}")).json()
        seen += [each["scheduledStartId"] for each in page["items"]]
        cursor = f"&cursor={page['nextCursor']}"
    assert page["nextCursor"] is None
    assert seen == ids[::-1]
    assert [each["scheduledStartId"] for each in await listed(api, query="?state=started")] == ids[:1]
    wrong = await api.ask("GET", "/api/scheduled-starts?cursor=zzz")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
    assert (await api.ask("GET", "/api/scheduled-starts?state=running")).status_code == 422


async def test_one_to_come_is_taken_back_as_often_as_one_likes(api: Api) -> None:
    found = await booked(api)
    path = f"/api/scheduled-starts/{found['scheduledStartId']}"
    first = await api.ask("DELETE", path)
    assert (first.status_code, first.json()["state"], first.json()["reason"]) == (200, "cancelled", "user_requested")
    assert api.lives.scheduled.begun == {}
    api.lives.scheduled.away = AWAY
    assert (await api.ask("DELETE", path)).json() == first.json()


@pytest.mark.parametrize("state", ["starting", "started", "rejected"])
async def test_one_whose_time_has_come_cannot_be_taken_back(api: Api, state: str) -> None:
    found = await booked(api)
    await end(api, found["scheduledStartId"], state)
    answer = await api.ask("DELETE", f"/api/scheduled-starts/{found['scheduledStartId']}")
    assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "wrong_state", state)
    assert (await listed(api))[0]["state"] == state


async def test_stranger_books_nothing_and_sees_nothing_and_takes_nothing_back(api: Api) -> None:
    found = await booked(api)
    assert (await api.start("stranger", "shop", json={"startAt": ahead(hours=1)})).status_code == 404
    assert await listed(api, "stranger") == []
    theirs = await api.ask("DELETE", f"/api/scheduled-starts/{found['scheduledStartId']}", "stranger")
    nothing = await api.ask("DELETE", "/api/scheduled-starts/ss-0000", "stranger")
    assert (theirs.status_code, theirs.json()) == (404, nothing.json())
    assert [each["state"] for each in await listed(api)] == ["scheduled"]
    page = (await api.ask("GET", "/api/scheduled-starts?limit=1")).json()
    assert page["nextCursor"] is None


async def test_one_who_was_put_out_of_the_project_still_sees_and_takes_back(api: Api) -> None:
    found = await booked(api)
    await api.sql("DELETE FROM memberships WHERE user_id = 'owner' RETURNING 1")
    assert len(await listed(api)) == 1
    assert (await api.ask("DELETE", f"/api/scheduled-starts/{found['scheduledStartId']}")).status_code == 200


async def test_user_may_have_a_hundred_to_come_and_is_told_so_before(api: Api) -> None:
    await api.sql(
        "INSERT INTO scheduled_starts (scheduled_start_id, user_id, project_id, start_at, created_at)"
        " SELECT 'ss-' || n, 'owner', 'shop', now() + interval '1 day', now() FROM generate_series(1, :n) n"
        " RETURNING 1",
        n=MOST_PENDING - 1,
    )
    answers = await asyncio.gather(*(api.start(json={"startAt": ahead(hours=1)}) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert (refused.json()["code"], refused.json()["action"]) == (
        "too_many_scheduled_starts",
        "cancel_a_scheduled_start",
    )
    explained = await api.ask("POST", "/api/projects/shop/explain-start", json={"startAt": ahead(hours=1)})
    assert (explained.json()["status"], explained.json()["reason"]) == ("rejected", "too_many_scheduled_starts")
    await api.ask("DELETE", "/api/scheduled-starts/ss-1")
    assert (await api.start(json={"startAt": ahead(hours=1)})).status_code == 202


async def test_explained_start_to_come_would_be_scheduled_and_changes_nothing(api: Api) -> None:
    at = datetime.now(UTC) + timedelta(hours=2)
    explained = await api.ask("POST", "/api/projects/shop/explain-start", json={"startAt": at.isoformat()})
    found = explained.json()
    assert (found["status"], found["checks"], found["helps"]) == ("scheduled", [], [])
    assert datetime.fromisoformat(found["startAt"]) == at
    assert await listed(api) == []
    past = await api.ask("POST", "/api/projects/shop/explain-start", json={"startAt": ahead(hours=-1)})
    assert (past.json()["status"], past.json()["startAt"]) == ("created", None)
    far = await api.ask("POST", "/api/projects/shop/explain-start", json={"startAt": ahead(days=31)})
    assert far.json()["code"] == "start_at_too_far"
