"""Notices as administrators see them, over HTTP and on the command line; nobody else sees any."""

import json
from datetime import UTC, datetime

import pytest

from api.auth import Role
from core.db.repositories import events, notices
from core.domain.notices import Channel
from tests.fixtures.api import Api
from tests.fixtures.terminal import Desk

DEAD = (
    "UPDATE notices SET state = 'dead', ended_at = now(), tries = 9, error = 'webhook_timeout', error_detail = 'none'"
)


async def happen(api: Api, times: int = 1) -> list[str]:
    """So many notices; their ids, newest first."""
    async with api.db.transaction() as session:
        await notices.open_channels(session, {Channel.WEBHOOK})
    for _ in range(times):
        async with api.db.transaction() as session:
            await events.record_rejection(session, "owner", "shop", datetime.now(UTC), "queue_full", {})
    return [row["notice_id"] for row in await api.sql("SELECT notice_id FROM notices ORDER BY created_at DESC")]


async def test_administrator_pages_through_notices_newest_first(api: Api) -> None:
    ids = await happen(api, 3)
    first = (await api.ask("GET", "/api/admin/notices?limit=2", "admin", role=Role.ADMIN)).json()
    assert [each["noticeId"] for each in first["items"]] == ids[:2]
    rest = await api.ask("GET", f"/api/admin/notices?limit=2&cursor={first['nextCursor']}", "admin", role=Role.ADMIN)
    assert ([each["noticeId"] for each in rest.json()["items"]], rest.json()["nextCursor"]) == (ids[2:], None)
    one = first["items"][0]
    assert (one["channel"], one["kind"], one["state"]) == ("webhook", "agent.rejected", "pending")
    assert (one["userId"], one["projectId"], one["agentId"], one["tries"]) == ("owner", "shop", None, 0)
    mails = await api.ask("GET", "/api/admin/notices?channel=email", "admin", role=Role.ADMIN)
    assert mails.json()["items"] == []


async def test_dead_notice_is_replayed_once(api: Api) -> None:
    (notice_id,) = await happen(api)
    path = f"/api/admin/notices/{notice_id}/replay"
    early = await api.ask("POST", path, "admin", role=Role.ADMIN)
    assert (early.status_code, early.json()["code"], early.json()["state"]) == (409, "wrong_state", "pending")
    await api.sql(f"{DEAD} RETURNING 1")
    (dead,) = (await api.ask("GET", "/api/admin/notices?state=dead", "admin", role=Role.ADMIN)).json()["items"]
    assert (dead["error"], dead["errorDetail"], dead["nextTryAt"]) == ("webhook_timeout", "none", None)
    replayed = await api.ask("POST", path, "admin", role=Role.ADMIN)
    assert (replayed.status_code, replayed.json()["state"], replayed.json()["tries"]) == (202, "pending", 0)
    assert (await api.ask("POST", path, "admin", role=Role.ADMIN)).status_code == 409
    unknown = await api.ask("POST", "/api/admin/notices/none/replay", "admin", role=Role.ADMIN)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")


async def test_closed_channel_gets_no_more_notices(api: Api) -> None:
    await happen(api)
    path = "/api/admin/notices/channels/{}/close"
    for _ in range(2):
        closed = await api.ask("POST", path.format("webhook"), "admin", role=Role.ADMIN)
        assert (closed.status_code, closed.json()) == (200, {"channel": "webhook", "open": False})
    async with api.db.transaction() as session:
        await events.record_rejection(session, "owner", "shop", datetime.now(UTC), "queue_full", {})
    assert len(await api.sql("SELECT 1 FROM notices")) == 1
    unknown = await api.ask("POST", path.format("pigeon"), "admin", role=Role.ADMIN)
    assert (unknown.status_code, unknown.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("who", ["owner", "stranger"])
async def test_nobody_but_an_administrator_sees_or_replays_notices(api: Api, who: str) -> None:
    (notice_id,) = await happen(api)
    await api.sql(f"{DEAD} RETURNING 1")
    for method, path in (
        ("GET", "/api/admin/notices"),
        ("POST", f"/api/admin/notices/{notice_id}/replay"),
        ("POST", "/api/admin/notices/channels/webhook/close"),
    ):
        refused = await api.ask(method, path, who)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await api.http.request(method, path)).status_code == 401
    assert await api.sql("SELECT state FROM notices") == [{"state": "dead"}]


async def test_numbers_say_how_old_the_outbox_is_and_how_many_were_given_up(api: Api) -> None:
    await happen(api, 2)
    await api.sql("UPDATE notices SET since = now() - interval '20 minutes' RETURNING 1")
    await api.sql(f"{DEAD} WHERE notice_id LIKE '%-1-webhook' RETURNING 1")
    await api.sql(
        "UPDATE notice_channels SET outcomes = '{\"sent\": 7, \"dead\": 1}' WHERE channel = 'webhook' RETURNING 1"
    )
    shown = dict(line.rsplit(" ", 1) for line in (await api.http.get("/metrics")).text.splitlines() if line[0] != "#")
    assert 1190 < float(shown['berth_outbox_oldest_seconds{channel="webhook"}']) < 1300
    assert float(shown['berth_outbox_oldest_seconds{channel="email"}']) == 0
    assert float(shown['berth_outbox_dead{channel="webhook"}']) == 1
    assert float(shown['berth_notices_total{channel="webhook",outcome="sent"}']) == 7
    assert float(shown['berth_notices_total{channel="webhook",outcome="retried"}']) == 0


async def test_command_line_shows_dead_notices_and_replays_one_or_all(desk: Desk) -> None:
    berth = desk.as_user("admin", role=Role.ADMIN)
    none = await berth("notices", "--dead")
    assert (none.code, none.out, none.line) == (0, "", "no notice was given up")
    ids = await happen(desk.api, 3)
    await desk.api.sql(f"{DEAD} RETURNING 1")
    shown = await berth("notices", "--dead")
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == ids
    assert "webhook_timeout: none" in shown.out
    one = await berth("notices", "replay", ids[0])
    assert (one.code, one.out.splitlines()[1].split()[2]) == (0, "pending")
    again = await berth("notices", "replay", ids[0])
    assert (again.code, "only a dead one is replayed" in again.line) == (3, True)
    rest = json.loads((await berth("notices", "replay", "--all-dead", "--json")).out)
    assert [each["noticeId"] for each in rest] == ids[1:]
    assert (await berth("notices", "replay")).code == 2
    closed = await berth("notices", "close", "webhook")
    assert (closed.code, closed.line) == (
        0, "no more notices by webhook, until a worker starts that is set up to send them"
    )  # fmt: skip
    assert await desk.api.sql("SELECT open FROM notice_channels WHERE channel = 'webhook'") == [{"open": False}]
    refused = await desk.as_user("owner")("notices")
    assert (refused.code, "administrators" in refused.line) == (3, True)
