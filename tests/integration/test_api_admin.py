"""Administration: users, projects, everyone's agents, pools."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from api.auth import Role
from core.db.notify import Listener, Wake
from core.domain.lifecycle import EndReason
from core.domain.templates import Pool
from core.domain.tiers import Tier
from core.errors import Unavailable
from tests.fixtures.api import Api, replica


async def _as_admin(api: Api, method: str, path: str, body: Any = None) -> httpx2.Response:
    return await api.ask(method, f"/api/admin{path}", "admin", role=Role.ADMIN, json=body)


async def test_user_is_made_then_changed_field_by_field(api: Api) -> None:
    made = await _as_admin(api, "PUT", "/users/new", {"email": "new@example.org", "tier": "basic"})
    assert (made.status_code, made.json()["tier"]) == (200, "basic")
    changed = await _as_admin(api, "PUT", "/users/new", {"tier": "premium"})
    assert changed.json() == {
        "userId": "new", "email": "new@example.org", "tier": "premium", "subscriptionActiveUntil": None,
    }  # fmt: skip
    assert (await api.ask("GET", "/api/me", "new")).json()["limit"] == 10


async def test_other_tier_while_waiting_moves_the_place_and_wakes_the_queue(api: Api) -> None:
    await api.lives.look(0)
    await api.start()
    await api.start("stranger", "other")
    assert (await api.ask("GET", "/api/queue", "stranger")).json()["items"][0]["position"] == 2
    async with Listener.open(api.db.engine.url.render_as_string(hide_password=False)) as listener:
        await listener.wait_connected(10)
        with listener.subscribe((Wake.QUEUE, "default")) as moved:
            assert (await _as_admin(api, "PUT", "/users/stranger", {"tier": "premium"})).status_code == 200
            assert await moved.wait(10), "whoever looks at positions is told"
    assert (await api.ask("GET", "/api/queue", "stranger")).json()["items"][0]["position"] == 1
    assert (await api.ask("GET", "/api/queue")).json()["items"][0]["position"] == 2
    assert api.lives.pools == ["default"]
    # Nothing of a tier was said: nobody moves.
    await _as_admin(api, "PUT", "/users/owner", {"email": "owner@example.org"})
    assert api.lives.pools == ["default"]


@pytest.mark.parametrize(
    "body",
    [
        {"tier": "gold"},
        {"email": "no at"},
        {"email": "ann@example.org."},
        {"email": "ann@example..com"},
        {"email": "ann@=?utf-8?q?b=2C_c=40d?="},
        {"subscriptionActiveUntil": "soon"},
        {"subscriptionActiveUntil": 5},
        {"subscriptionActiveUntil": "5"},
        {"subscriptionActiveUntil": "20270101"},
        {"subscriptionActiveUntil": "0001-01-01T00:00:00+14:00"},
        {"subscriptionActiveUntil": "9999-12-31T23:59:59-14:00"},
        {"subscriptionActiveUntil": "2026-01-01T00:00:00"},
        {"role": "admin"},
        {"tier": None},
    ],
)
async def test_user_that_makes_no_sense_is_refused(api: Api, body: dict[str, Any]) -> None:
    answer = await _as_admin(api, "PUT", "/users/new", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert await api.sql("SELECT 1 FROM users WHERE user_id = 'new'") == []


async def test_expired_subscription_drains_the_users_agents_and_lets_no_new_one_start(api: Api) -> None:
    await api.member("busy", ["a", "b", "c"], Tier.BASIC)
    ids = {await api.running("busy", project) for project in ("a", "b")}
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    assert (await _as_admin(api, "PUT", "/users/busy", {"subscriptionActiveUntil": past})).status_code == 200
    assert {(order.agent_id, order.reason) for order in api.lives.stops} == {
        (agent_id, EndReason.SUBSCRIPTION_EXPIRED) for agent_id in ids
    }
    refused = await api.start("busy", "c")
    assert (refused.status_code, refused.json()["reason"]) == (403, "subscription_inactive")
    await _as_admin(api, "PUT", "/users/busy", {"subscriptionActiveUntil": None})
    assert (await api.start("busy", "c")).status_code == 201


async def test_subscription_in_the_future_drains_nobody(api: Api) -> None:
    await api.running()
    future = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    await _as_admin(api, "PUT", "/users/owner", {"subscriptionActiveUntil": future})
    assert not api.lives.stops


async def test_removed_member_loses_the_agent_of_that_project_alone(api: Api) -> None:
    await api.member("busy", ["shop", "mine"], Tier.BASIC)
    there, elsewhere = await api.running("busy", "shop"), await api.running("busy", "mine")
    answer = await _as_admin(api, "PUT", "/projects/shop", {"members": ["owner", "owner"]})
    assert answer.json() == {"projectId": "shop", "members": ["owner"]}
    assert [(order.agent_id, order.reason) for order in api.lives.stops] == [(there, EndReason.USER_LEFT)]
    assert (await api.ask("GET", f"/api/agents/{elsewhere}", "busy")).json()["state"] == "running"


async def test_removal_that_temporal_did_not_hear_of_is_made_good_by_the_same_request(api: Api) -> None:
    agent_id = await api.running()
    api.lives.away = Unavailable("down", code="temporal_unavailable")
    assert (await _as_admin(api, "PUT", "/projects/shop", {"members": []})).status_code == 503
    api.lives.away = None
    assert (await _as_admin(api, "PUT", "/projects/shop", {"members": []})).status_code == 200
    assert api.lives.stops[-1].agent_id == agent_id


async def test_unknown_members_are_named_and_nothing_changes(api: Api) -> None:
    answer = await _as_admin(api, "PUT", "/projects/shop", {"members": ["owner", "ghost"]})
    assert (answer.status_code, answer.json()["code"], answer.json()["unknown"]) == (422, "unknown_members", ["ghost"])
    answer = await _as_admin(api, "PUT", "/projects/fresh", {"members": ["ghost"]})
    assert await api.sql("SELECT 1 FROM projects WHERE project_id = 'fresh'") == []


async def test_admin_sees_everyones_agents(api: Api) -> None:
    ids = {await api.running(), await api.running("stranger", "other")}
    items = (await _as_admin(api, "GET", "/agents")).json()["items"]
    assert {agent["agentId"] for agent in items} == ids
    items = (await _as_admin(api, "GET", "/agents?userId=stranger")).json()["items"]
    assert [agent["userId"] for agent in items] == ["stranger"]
    one = items[0]["agentId"]
    events = await api.ask("GET", f"/api/agents/{one}/events", "admin", role=Role.ADMIN)
    assert events.json()["items"]


@pytest.mark.parametrize("word", ["user_requested", "inactivity", "user_left_project", "resource_pressure"])
async def test_admins_stop_is_told_as_an_operators_where_its_word_would_promise_something(api: Api, word: str) -> None:
    """That its user asked for it, that it may be taken back, or that a place in line is owed."""
    agent_id = await api.running()
    await _as_admin(api, "POST", f"/agents/{agent_id}/terminate", {"reason": word})
    assert (api.lives.stops[0].reason, api.lives.stops[0].detail) == ("operator", word)


async def test_admin_terminates_with_reason_grace_and_force(api: Api) -> None:
    agent_id = await api.running()
    body = {"reason": "disk is being replaced", "graceSeconds": 30, "force": True}
    answer = await _as_admin(api, "POST", f"/agents/{agent_id}/terminate", body)
    assert (answer.status_code, answer.json()["state"]) == (202, "draining")
    order = api.lives.stops[0]
    assert (order.reason, order.detail, order.grace_seconds, order.force) == (
        "operator", "disk is being replaced", 30, True,
    )  # fmt: skip
    await _as_admin(api, "POST", f"/agents/{agent_id}/terminate", {"reason": "maintenance"})
    assert (api.lives.stops[1].reason, api.lives.stops[1].detail) == ("maintenance", "")
    assert (await _as_admin(api, "POST", "/agents/ag-none/terminate")).status_code == 404
    assert (await api.ask("POST", f"/api/admin/agents/{agent_id}/terminate", json=body)).json()["code"] == "forbidden"
    assert len(api.lives.stops) == 2
    await api.lives.end(agent_id)
    over = await _as_admin(api, "POST", f"/agents/{agent_id}/terminate", {"force": True})
    assert (over.status_code, over.json()["code"], over.json()["state"]) == (409, "wrong_state", "terminated")


async def test_admin_gives_up_on_a_runtime_and_nobody_else_does(api: Api) -> None:
    agent_id = await api.running()
    path, body = f"/agents/{agent_id}/terminate", {"abandon": True, "reason": "the machine burnt"}
    assert (await api.ask("POST", f"/api/admin{path}", json=body)).json()["code"] == "forbidden"
    answer = await _as_admin(api, "POST", path, body)
    assert (answer.status_code, answer.json()["state"]) == (202, "terminated")
    assert [(order.reason, order.detail) for order in api.lives.abandoned] == [("operator", "the machine burnt")]
    assert not api.lives.stops


async def test_pool_tells_its_room_and_where_its_capacity_comes_from(api: Api) -> None:
    await api.lives.look(1)
    await api.start()
    await api.start("stranger", "other")
    pool = (await _as_admin(api, "GET", "/pools/default")).json()
    assert (pool["holders"], pool["waiting"], pool["capacity"], pool["clusterFree"]) == (1, 1, 100, 0)
    assert pool["capacityFrom"] == "settings"
    assert [each["pool"] for each in (await _as_admin(api, "GET", "/pools")).json()["items"]] == ["default"]
    assert (await _as_admin(api, "GET", "/pools/none")).status_code == 404


async def test_pool_tells_how_many_start_and_how_many_may_at_once(api: Api) -> None:
    pools = {"default": Pool(runtime="memory", max_starting=3)}
    async with replica(api.db, api.settings.model_copy(update={"pools": pools}), api.lives) as limited:
        await limited.start()
        await limited.running("stranger", "other")
        pool = (await _as_admin(limited, "GET", "/pools/default")).json()
        assert (pool["holders"], pool["starting"], pool["maxStarting"]) == (2, 1, 3)
    assert (await _as_admin(api, "GET", "/pools/default")).json()["maxStarting"] is None


async def test_capacity_below_the_holders_drains_nothing_admits_nothing_and_says_so(api: Api) -> None:
    ids = [await api.running(), await api.running("stranger", "other")]
    pool = (await _as_admin(api, "PUT", "/pools/default", {"capacity": 1})).json()
    assert (pool["holders"], pool["capacity"], pool["overCapacity"]) == (2, 1, 1)
    assert not api.lives.stops
    await api.member("late", ["new"])
    waits = (await api.start("late", "new")).json()
    assert (waits["status"], waits["reason"]) == ("queued", "no_suitable_node")
    for agent_id in ids:
        assert (await api.ask("GET", "/api/admin/agents?state=running", "admin", role=Role.ADMIN)).json()["items"]
        await api.lives.end(agent_id)
    pool = (await _as_admin(api, "GET", "/pools/default")).json()
    assert (pool["holders"], pool["overCapacity"]) == (0, 0)


async def test_pool_tells_that_nobody_may_start_there_while_others_of_its_machines_do(api: Api) -> None:
    await api.lives.look(100, nodes=1)
    await api.start()
    pools = {
        "default": Pool(runtime="memory", max_starting_per_node=2),
        "side": Pool(runtime="memory", template="other", max_starting_per_node=1),
    }
    async with replica(api.db, api.settings.model_copy(update={"pools": pools}), api.lives) as limited:
        here, there = (await _as_admin(limited, "GET", "/pools")).json()["items"]
    assert (here["starting"], here["maxStarting"], here["startsLeft"]) == (1, 2, 1)
    assert (there["starting"], there["maxStarting"], there["startsLeft"]) == (0, 1, 0)
    unlimited = (await _as_admin(api, "GET", "/pools/default")).json()
    assert (unlimited["maxStarting"], unlimited["startsLeft"]) == (None, None)


@pytest.mark.parametrize(
    "body", [{"capacity": -1}, {"capacity": 1.5}, {"capacity": "many"}, {"paused": None, "size": 1}]
)
async def test_pool_that_makes_no_sense_is_refused(api: Api, body: dict[str, Any]) -> None:
    answer = await _as_admin(api, "PUT", "/pools/default", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_pool_tells_what_is_in_use_what_shuts_its_door_and_how_old_that_is(api: Api) -> None:
    await api.lives.look(9, memory_percent=93.4, cpu_percent=12, nodes=3)
    pool = (await _as_admin(api, "GET", "/pools/default")).json()
    assert (pool["choked"], pool["refused"], pool["snapshot"], pool["nodes"]) == (True, False, "fresh", 3)
    assert pool["measures"] == [
        {"measure": "cpu", "value": 12, "limit": 85, "over": False},
        {"measure": "memory", "value": 93.4, "limit": 90, "over": True},
        {"measure": "disk", "value": None, "limit": 90, "over": False},
        {"measure": "network", "value": None, "limit": None, "over": False},
    ]
    await api.sql("UPDATE clusters SET measured_at = now() - interval '5 minutes' RETURNING cluster")
    assert (await _as_admin(api, "GET", "/pools/default")).json()["snapshot"] == "stale"


async def test_pool_is_changed_and_its_queue_told(api: Api) -> None:
    changed = (await _as_admin(api, "PUT", "/pools/default", {"capacity": 3})).json()
    assert (changed["capacity"], changed["capacityFrom"], changed["paused"]) == (3, "operator", False)
    paused = (await _as_admin(api, "PUT", "/pools/default", {"paused": True})).json()
    assert (paused["capacity"], paused["paused"]) == (3, True)
    assert (await api.start()).json()["reason"] == "pool_paused"
    back = (await _as_admin(api, "PUT", "/pools/default", {"capacity": None, "paused": False})).json()
    assert (back["capacity"], back["capacityFrom"], back["paused"]) == (100, "settings", False)
    assert api.lives.pools == ["default"] * 3


async def test_maintenance_is_ordered_now_or_in_time_for_its_beginning(api: Api) -> None:
    now = await _as_admin(api, "POST", "/maintenance", {"pool": "default", "reason": "a new kernel"})
    assert now.status_code == 202
    starts_at = datetime.now(UTC) + timedelta(hours=3)
    later = await _as_admin(api, "POST", "/maintenance", {"node": "worker-3", "startsAt": starts_at.isoformat()})
    assert later.status_code == 202
    # The grace, the time to save, and that to be removed in.
    way = timedelta(seconds=120 + 30 + 10)
    assert datetime.fromisoformat(later.json()["warnsAt"]) == starts_at - way
    assert later.json()["maintenanceId"] != now.json()["maintenanceId"]
    pool, node = api.lives.maintenances
    assert (pool.pool, pool.node, pool.starts_at, pool.detail) == ("default", None, None, "a new kernel")
    assert (node.pool, node.node, node.starts_at, node.warn_at) == (None, "worker-3", starts_at, starts_at - way)


async def test_maintenance_that_begins_before_a_grace_is_over_warns_at_once(api: Api) -> None:
    for starts_at in (datetime.now(UTC) + timedelta(seconds=30), datetime.now(UTC) - timedelta(days=1)):
        before = datetime.now(UTC)
        body = {"pool": "default", "startsAt": starts_at.isoformat()}
        answer = (await _as_admin(api, "POST", "/maintenance", body)).json()
        assert before <= datetime.fromisoformat(answer["warnsAt"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_request"),
        ({"pool": "default", "node": "worker-3"}, 422, "invalid_request"),
        ({"pool": "nowhere"}, 404, "not_found"),
        ({"node": ""}, 422, "invalid_request"),
        ({"pool": "default", "reason": "two\nlines"}, 422, "invalid_request"),
        ({"pool": "default", "startsAt": "tonight"}, 422, "invalid_request"),
        ({"pool": "default", "startsAt": "2026-03-01T09:30:00"}, 422, "invalid_request"),
        ({"pool": "default", "startsAt": "20261201"}, 422, "invalid_request"),
        ({"pool": "default", "startsAt": "1764576000"}, 422, "invalid_request"),
        ({"pool": "default", "startsAt": "9000-01-01T00:00:00Z"}, 422, "starts_at_too_far"),
        ({"pool": "default", "force": True}, 422, "invalid_request"),
    ],
)
async def test_maintenance_that_makes_no_sense_is_refused(
    api: Api, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await _as_admin(api, "POST", "/maintenance", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert not api.lives.maintenances


async def test_maintenance_is_for_administrators_alone_and_fails_when_nobody_can_be_told(api: Api) -> None:
    for user in ("owner", "stranger"):
        refused = await api.ask("POST", "/api/admin/maintenance", user, json={"pool": "default"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert not api.lives.maintenances
    api.lives.away = Unavailable("away", code="temporal_unavailable")
    answer = await _as_admin(api, "POST", "/maintenance", {"pool": "default"})
    assert (answer.status_code, answer.json()["code"]) == (503, "temporal_unavailable")
