"""Agents over HTTP: lists, lives, orders, profiles, and what the caller may know of itself."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from api.pagination import seal
from core.db.repositories import agents, events
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState, EndReason
from core.domain.tiers import Tier
from core.errors import RuntimeRetryable, Unavailable
from tests.fakes.runtime import ShelfRuntime
from tests.fixtures.api import Api


async def test_agent_shows_its_life(api: Api) -> None:
    agent_id = await api.running()
    agent = (await api.ask("GET", f"/api/agents/{agent_id}")).json()
    assert (agent["userId"], agent["projectId"], agent["state"]) == ("owner", "shop", "running")
    assert not {"attempt", "workflowId", "cluster", "tokenHash"} & agent.keys()
    events = (await api.ask("GET", f"/api/agents/{agent_id}/events")).json()["items"]
    kinds = [event["kind"].removeprefix("agent.") for event in events]
    assert kinds == ["requested", "queued", "admitted", "starting", "ready"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]


async def test_agent_tells_since_when_it_is_in_its_state(api: Api) -> None:
    agent_id = await api.running()
    path = f"/api/agents/{agent_id}"
    for state in (AgentState.RESTARTING, AgentState.DRAINING):
        await api.lives.move(agent_id, state, EventKind(f"agent.{state}"))
        changed = (await api.ask("GET", f"{path}/events")).json()["items"][-1]["at"]
        async with api.lives.db.transaction() as session:
            row = await agents.lock(session, agent_id)
            assert row is not None
            await events.append(session, row, datetime.now(UTC), agents.fact(EventKind.WARNING, state))
        assert (await api.ask("GET", path)).json()["stateSince"] == changed, state
        (listed,) = (await api.ask("GET", "/api/agents")).json()["items"]
        assert listed["stateSince"] == changed, state
    await api.lives.move(agent_id, AgentState.TERMINATED, EventKind.TERMINATED)
    over = (await api.ask("GET", path)).json()
    assert over["stateSince"] == over["endedAt"]


async def test_pages_hold_every_agent_once_newest_first(api: Api) -> None:
    await api.member("busy", [f"p{n}" for n in range(7)], Tier.PREMIUM)
    started = [(await api.start("busy", f"p{n}")).json()["agent"]["agentId"] for n in range(7)]
    seen: list[str] = []
    path = "/api/agents?limit=3"
    for _ in range(3):
        page = (await api.ask("GET", path, "busy")).json()
        seen += [agent["agentId"] for agent in page["items"]]
        path = f"/api/agents?limit=3&cursor={page['nextCursor']}"
    assert seen == started[::-1]
    assert page["nextCursor"] is None


async def test_list_is_narrowed_by_state_and_project(api: Api) -> None:
    await api.member("busy", ["a", "b"], Tier.BASIC)
    running = await api.running("busy", "a")
    await api.start("busy", "b")
    for query in ("state=running", "projectId=a", "state=running&projectId=a"):
        items = (await api.ask("GET", f"/api/agents?{query}", "busy")).json()["items"]
        assert [agent["agentId"] for agent in items] == [running], query


async def test_events_are_paged(api: Api) -> None:
    agent_id = await api.running()
    first = (await api.ask("GET", f"/api/agents/{agent_id}/events?limit=3")).json()
    assert [event["seq"] for event in first["items"]] == [1, 2, 3]
    rest = (await api.ask("GET", f"/api/agents/{agent_id}/events?cursor={first['nextCursor']}")).json()
    assert [event["seq"] for event in rest["items"]] == [4, 5]
    assert rest["nextCursor"] is None


async def test_cursor_that_was_mangled_or_belongs_elsewhere_is_refused(api: Api) -> None:
    await api.member("busy", ["a", "b"], Tier.BASIC)
    agent_id = await api.running("busy", "a")
    await api.start("busy", "b")
    cursor = (await api.ask("GET", "/api/agents?limit=1", "busy")).json()["nextCursor"]
    elsewhere = (await api.ask("GET", f"/api/agents/{agent_id}/events?limit=1", "busy")).json()["nextCursor"]
    last = "A" if cursor[-1] != "A" else "B"
    bad = [cursor[:-1], cursor + "A", cursor[:-5] + last + cursor[-4:], elsewhere, "AAAA", "%20", "", "é", "x" * 3000]
    for each in bad:
        answer = await api.ask("GET", f"/api/agents?cursor={each}", "busy")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), each


@pytest.mark.parametrize(
    ("at", "name"),
    [
        ("2026-01-01T00:00:00+00:00", "\ud800"),
        ("2026-01-01T00:00:00+00:00", "\x00"),
        ("0001-01-01T00:00:00+14:00", "ag-1"),
        ("2026-01-01T00:00:00", "ag-1"),
    ],
)
async def test_cursor_that_names_what_nothing_can_be_called_is_refused(api: Api, at: str, name: str) -> None:
    # Its check holds no secret, so anybody can make one.
    place = base64.urlsafe_b64encode(json.dumps([at, name]).encode()).decode()
    for path, kind in (("agents", "agents"), ("scheduled-starts", "scheduled")):
        answer = await api.ask("GET", f"/api/{path}?cursor={seal(kind, place)}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "state=happy", "projectId=", "projectId=%00"])
async def test_query_that_makes_no_sense_is_refused(api: Api, query: str) -> None:
    answer = await api.ask("GET", f"/api/agents?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["where"].startswith("query.")


async def test_user_stops_without_grace_unless_asked(api: Api) -> None:
    agent_id = await api.running()
    stopped = await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 50})
    assert (stopped.status_code, stopped.json()["state"]) == (202, "draining")
    again = await api.ask("POST", f"/api/agents/{agent_id}/stop")
    assert again.status_code == 202
    assert [(order.reason, order.grace_seconds) for order in api.lives.stops] == [
        (EndReason.USER_REQUESTED, 50),
        (EndReason.USER_REQUESTED, 0),
    ]
    assert {order.agent_id for order in api.lives.stops} == {agent_id}


@pytest.mark.parametrize("more", [600, 300, 61])
async def test_stop_is_repeated_as_often_as_one_likes_and_ordered_once(api: Api, more: int) -> None:
    agent_id = await api.running()
    await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 60})
    for _ in range(5):
        answer = await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": more})
        assert (answer.status_code, answer.json()["state"]) == (202, "draining")
    assert [order.grace_seconds for order in api.lives.stops] == [60]


@pytest.mark.parametrize("grace", [-1, 601, "x", None, 1e400])
async def test_grace_outside_its_bounds_is_refused(api: Api, grace: object) -> None:
    agent_id = await api.running()
    body = '{"graceSeconds": 1e400}' if grace == 1e400 else None
    answer = await api.ask(
        "POST",
        f"/api/agents/{agent_id}/stop",
        **(
            {"content": body, "headers": {"Content-Type": "application/json"}}
            if body
            else {"json": {"graceSeconds": grace}}
        ),
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert not api.lives.stops


async def test_waiting_agent_is_stopped_by_leaving_the_queue(api: Api) -> None:
    await api.lives.look(1)
    await api.start()
    waiting = (await api.start("stranger", "other")).json()["agentId"]
    stopped = await api.ask("POST", f"/api/agents/{waiting}/stop", "stranger")
    assert (stopped.status_code, stopped.json()["state"]) == (202, "cancelled")


async def test_orders_for_a_life_that_is_over_say_what_it_is(api: Api) -> None:
    agent_id = await api.running()
    await api.lives.end(agent_id)
    for order in ("stop", "keep", "restart", "activity"):
        answer = await api.ask("POST", f"/api/agents/{agent_id}/{order}")
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["state"]) == (409, "wrong_state", "terminated"), order


async def test_warning_is_taken_back_within_its_grace(api: Api) -> None:
    agent_id = await api.running()
    assert (await api.ask("POST", f"/api/agents/{agent_id}/keep")).status_code == 409, "there is no warning yet"
    await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 60})
    assert (await api.ask("GET", f"/api/agents/{agent_id}")).json()["keepable"] is True
    kept = await api.ask("POST", f"/api/agents/{agent_id}/keep")
    assert (kept.status_code, kept.json()["state"]) == (200, "running")


async def test_warning_whose_grace_just_ended_is_not_taken_back(api: Api) -> None:
    agent_id = await api.running()
    await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 60})
    api.lives.too_late = True
    answer = await api.ask("POST", f"/api/agents/{agent_id}/keep")
    assert (answer.status_code, answer.json()["state"]) == (409, "draining")


async def test_running_agent_restarts_and_stays_the_same(api: Api) -> None:
    agent_id = await api.running()
    answer = await api.ask("POST", f"/api/agents/{agent_id}/restart")
    assert (answer.status_code, answer.json()["agentId"], answer.json()["state"]) == (202, agent_id, "restarting")


async def test_restart_asked_again_under_its_key_is_one_restart(api: Api) -> None:
    agent_id = await api.running()
    path, again = f"/api/agents/{agent_id}/restart", {"Idempotency-Key": "again"}
    assert (await api.ask("POST", path, headers=again)).status_code == 202
    await api.lives.begin_again(agent_id)
    await api.lives.run(agent_id)
    answer = await api.ask("POST", path, headers=again)
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    assert (await api.ask("POST", path, headers={"Idempotency-Key": "another"})).json()["state"] == "restarting"
    await api.lives.move(agent_id, AgentState.FAILED, EventKind.FAILED)
    # Also what became of it later is no reason to begin a new life.
    assert (await api.ask("POST", path, headers=again)).json()["state"] == "failed"


async def test_restart_that_no_workflow_took_is_refused_for_now_and_its_key_may_be_used_again(api: Api) -> None:
    agent_id = await api.running()
    path, again = f"/api/agents/{agent_id}/restart", {"Idempotency-Key": "again"}
    api.lives.unattended = True
    for headers in ({}, again):
        refused = await api.ask("POST", path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (503, "workflow_gone")
        assert int(refused.headers["Retry-After"]) == api.settings.timings.reap_seconds
    api.lives.unattended = False
    taken = await api.ask("POST", path, headers=again)
    assert (taken.status_code, taken.json()["state"]) == (202, "restarting")


async def test_failed_agent_restarts_as_a_new_life(api: Api) -> None:
    agent_id = await api.running()
    await api.lives.move(agent_id, AgentState.FAILED, EventKind.FAILED)
    answer = await api.ask("POST", f"/api/agents/{agent_id}/restart")
    assert answer.status_code == 201
    assert answer.json()["agent"]["agentId"] != agent_id
    again = await api.ask("POST", f"/api/agents/{agent_id}/restart")
    assert (again.status_code, again.json()["agent"]["agentId"]) == (200, answer.json()["agent"]["agentId"])


async def test_restart_of_a_failed_agent_asked_again_under_its_key_is_one_new_life(api: Api) -> None:
    agent_id = await api.running()
    await api.lives.move(agent_id, AgentState.FAILED, EventKind.FAILED)
    path, again = f"/api/agents/{agent_id}/restart", {"Idempotency-Key": "again"}
    first = await api.ask("POST", path, headers=again)
    second = first.json()["agent"]["agentId"]
    await api.lives.run(second)
    await api.lives.end(second)
    answer = await api.ask("POST", path, headers=again)
    assert (answer.status_code, answer.json()["agent"]["agentId"]) == (first.status_code, second)


async def test_restart_asked_again_under_its_key_is_answered_though_the_agent_is_leaving(api: Api) -> None:
    agent_id = await api.running()
    path, again = f"/api/agents/{agent_id}/restart", {"Idempotency-Key": "again"}
    assert (await api.ask("POST", path, headers=again)).status_code == 202
    await api.lives.begin_again(agent_id)
    await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 60})
    assert (await api.ask("POST", path, headers=again)).status_code == 202
    assert (await api.ask("POST", path, headers={"Idempotency-Key": "late"})).status_code == 409
    assert (await api.ask("POST", path, headers={"Idempotency-Key": "late"})).status_code == 409


async def test_activity_puts_off_the_idle_stop(api: Api) -> None:
    agent_id = await api.running()
    before = (await api.ask("GET", f"/api/agents/{agent_id}")).json()["lastActivityAt"]
    noted = await api.ask("POST", f"/api/agents/{agent_id}/activity")
    assert noted.status_code == 200
    after = (await api.ask("GET", f"/api/agents/{agent_id}")).json()["lastActivityAt"]
    assert datetime.fromisoformat(after) > datetime.fromisoformat(before)


async def test_sign_of_life_of_one_who_waits_does_not_change_since_when(api: Api) -> None:
    await api.lives.look(0)
    agent_id = (await api.start()).json()["agentId"]
    before = (await api.ask("GET", f"/api/agents/{agent_id}")).json()
    noted = await api.ask("POST", f"/api/agents/{agent_id}/activity")
    assert (noted.status_code, noted.json()["state"]) == (200, "queued")
    after = (await api.ask("GET", f"/api/agents/{agent_id}")).json()
    assert (noted.json()["lastActivityAt"], after["lastActivityAt"]) == (before["lastActivityAt"],) * 2


async def test_orders_while_temporal_is_away_are_told_to_come_back(api: Api) -> None:
    agent_id = await api.running()
    api.lives.away = Unavailable("down", code="temporal_unavailable")
    answer = await api.ask("POST", f"/api/agents/{agent_id}/stop")
    assert (answer.status_code, answer.json()["code"]) == (503, "temporal_unavailable")
    assert (await api.ask("GET", f"/api/agents/{agent_id}")).status_code == 200, "reads do not need Temporal"


async def test_me_tells_tier_limit_and_use(api: Api) -> None:
    await api.member("busy", ["a", "b"], Tier.BASIC)
    await api.start("busy", "a")
    me = (await api.ask("GET", "/api/me", "busy")).json()
    assert (me["userId"], me["tier"], me["limit"], me["used"], me["role"]) == ("busy", "basic", 3, 1, "user")
    assert me["projects"] == ["a", "b"]


async def test_queue_shows_own_waiting_agents_in_order(api: Api) -> None:
    await api.lives.look(1)
    await api.start()
    await api.member("busy", ["a", "b"], Tier.BASIC)
    ids = [(await api.start("busy", project)).json()["agentId"] for project in ("a", "b")]
    queue = (await api.ask("GET", "/api/queue", "busy")).json()["items"]
    assert [(agent["agentId"], agent["position"]) for agent in queue] == [(ids[0], 1), (ids[1], 2)]


async def test_ticket_is_given_and_kept_only_as_a_hash(api: Api) -> None:
    ticket = (await api.ask("POST", "/api/ticket")).json()
    rows = await api.sql("SELECT ticket_hash, kind, user_id FROM tickets")
    assert [(row["kind"], row["user_id"]) for row in rows] == [("events", "owner")]
    assert ticket["ticket"] not in str(rows)
    assert datetime.fromisoformat(ticket["expiresAt"]) < datetime.now(UTC) + timedelta(minutes=5)


async def test_tickets_nobody_uses_run_out(api: Api) -> None:
    answers = [(await api.ask("POST", "/api/ticket")).status_code for _ in range(201)]
    assert answers == [200] * 200 + [503]


async def test_profile_is_forgotten_only_when_no_agent_lives(api: Api) -> None:
    agent_id = await api.running()
    busy = await api.ask("DELETE", "/api/projects/shop/profile")
    assert (busy.status_code, busy.json()["code"]) == (409, "agent_lives")
    assert not api.runtime.forgotten
    await api.lives.end(agent_id)
    assert (await api.ask("DELETE", "/api/projects/shop/profile")).status_code == 202
    assert api.runtime.forgotten == [("owner", "shop")]


async def test_profile_can_be_forgotten_by_one_who_left_the_project(api: Api) -> None:
    await api.lives.end(await api.running())
    await api.sql("DELETE FROM memberships WHERE user_id = 'owner' RETURNING user_id")
    assert (await api.ask("DELETE", "/api/projects/shop/profile")).status_code == 202


def _with_runtimes(api: Api, *names: str) -> dict[str, ShelfRuntime]:
    """These beside the `memory` that its only pool uses; they are away, as one that nobody set up here."""
    others = {name: ShelfRuntime() for name in names}
    for each in others.values():
        each.fails = RuntimeRetryable("nobody is there")
    deps = api.app.state.deps
    api.app.state.deps = replace(deps, runtimes={**others, **deps.runtimes})
    return others


async def test_profile_is_forgotten_although_runtimes_that_nobody_uses_here_are_away(api: Api) -> None:
    await api.lives.end(await api.running())
    others = _with_runtimes(api, "kubernetes", "process")
    assert (await api.ask("DELETE", "/api/projects/shop/profile")).status_code == 202
    assert api.runtime.forgotten == [("owner", "shop")]
    assert not any(each.asked for each in others.values())


async def test_profile_is_forgotten_as_well_where_its_agents_once_lived(api: Api) -> None:
    await api.lives.end(await api.running())
    others = _with_runtimes(api, "kubernetes", "process")
    await api.sql("UPDATE agents SET runtime = 'kubernetes' RETURNING agent_id")
    answer = await api.ask("DELETE", "/api/projects/shop/profile")
    assert (answer.status_code, answer.json()["code"]) == (503, "runtime_unavailable")
    # What does answer has forgotten it by then, although it is the later one.
    assert api.runtime.forgotten == [("owner", "shop")]
    others["kubernetes"].fails = None
    assert (await api.ask("DELETE", "/api/projects/shop/profile")).status_code == 202
    assert others["kubernetes"].forgotten == [("owner", "shop")]
    assert not others["process"].asked


async def test_profile_at_a_runtime_that_is_no_more_is_not_said_to_be_forgotten(api: Api) -> None:
    await api.lives.end(await api.running())
    await api.sql("UPDATE agents SET runtime = 'removed' RETURNING agent_id")
    answer = await api.ask("DELETE", "/api/projects/shop/profile")
    assert (answer.status_code, answer.json()["code"]) == (503, "runtime_unavailable")
