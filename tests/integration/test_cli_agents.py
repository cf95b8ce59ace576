"""What a person does with agents on the command line, against a real API on a real database."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from api.auth import Role
from api.cli.explanation import lines
from api.cli.life import event_line
from api.cli.main import app
from core.db.repositories import agents, artefacts
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from core.domain.orders import OrderAnswer, Verdict
from core.domain.sizes import Size
from core.domain.tiers import Tier
from core.domain.wire import ZIP, Execute, saved_work_id
from core.errors import Unavailable
from tests.fixtures.live import LiveStage
from tests.fixtures.terminal import Cli, Desk

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50


async def test_moments_of_an_agent_are_shown_with_how_long_ago_they_were(desk: Desk) -> None:
    agent_id = await desk.api.running()
    shown = await desk.as_user("owner")("agents", "show", agent_id)
    created = (await desk.api.ask("GET", f"/api/agents/{agent_id}")).json()["createdAt"]
    assert re.search(rf"^  created +{re.escape(created)}  \(\d+ s ago\)$", shown.out, re.MULTILINE), shown.out


async def test_saved_work_of_every_attempt_is_shown_with_where_it_is(desk: Desk) -> None:
    agent_id = await desk.api.running()
    async with desk.api.db.transaction() as session:
        view = await agents.get(session, agent_id)
        assert view is not None
        first = await artefacts.add(session, view, saved_work_id(1), ZIP, 3, iter([b"PK!"]))
        second = await artefacts.add(session, view, saved_work_id(2), ZIP, 4, iter([b"PK!!"]))
    for which in (agent_id, "shop"):
        shown = await desk.as_user("owner")("agents", "show", which)
        assert re.findall(r"^  saved work +(.+)$", shown.out, re.MULTILINE) == [
            f"{second.told().url}  (attempt 2, 4 bytes)",
            f"{first.told().url}  (attempt 1, 3 bytes)",
        ]


async def test_explanation_shows_what_there_is_no_limit_of_as_none(desk: Desk) -> None:
    shown = await desk.as_user("owner")("explain", "shop")
    assert re.search(r"^  ok  below_project_limit +limit=none  used=0$", shown.out, re.MULTILINE), shown.out


async def test_json_is_the_answer_of_the_api(desk: Desk) -> None:
    agent_id = await desk.api.running()
    berth = desk.as_user("owner")
    asked = (await desk.api.ask("GET", f"/api/agents/{agent_id}")).json()
    assert json.loads((await berth("agents", "list", "--json")).out) == [asked]
    assert json.loads((await berth("agents", "show", agent_id, "--json")).out) == asked
    events = (await desk.api.ask("GET", f"/api/agents/{agent_id}/events")).json()["items"]
    assert json.loads((await berth("agents", "events", agent_id, "--json")).out) == events
    assert json.loads((await berth("queue", "--json")).out) == []


def test_every_command_about_agents_has_json_but_that_of_their_logs() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    about = {**commands["agents"].commands, **{name: commands[name] for name in ("queue", "explain")}}
    without = {name for name, command in about.items() if "--json" not in {o for p in command.params for o in p.opts}}
    assert without == {"logs"}
    assert "without --json" in about["logs"].help


async def test_start_over_the_quota_is_refused_with_what_would_help(desk: Desk) -> None:
    await desk.api.member("owner", ["second"])
    berth = desk.as_user("owner")
    started = await berth("agents", "start", "shop")
    assert started.code == 0
    assert started.out.split()[1:] == ["starting", "created"]
    again = await berth("agents", "start", "shop")
    assert again.out.split()[0] == started.out.split()[0]
    refused = await berth("agents", "start", "second")
    assert (refused.code, refused.out) == (3, "")
    assert "as many agents as your subscription allows" in refused.line
    assert "stop another agent" in refused.line


async def test_undecided_start_is_asked_again_with_its_key_until_it_is_decided(desk: Desk) -> None:
    desk.api.lives.away = Unavailable("nobody works", code="worker_silent")
    async with desk.as_user("owner").running("agents", "start", "shop", "--json") as process:
        assert process.stderr is not None
        assert b"no worker answers yet" in await asyncio.wait_for(process.stderr.readline(), 20)
        desk.api.lives.away = None
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert json.loads(out)["status"] == "created"
    assert len(await desk.api.sql("SELECT 1 AS one FROM idempotency")) == 1


async def test_undecided_restart_of_a_failed_agent_is_asked_again_with_its_key_until_it_is_decided(desk: Desk) -> None:
    agent_id = await desk.api.running()
    await desk.api.lives.move(agent_id, AgentState.FAILED, EventKind.FAILED)
    desk.api.lives.away = Unavailable("no worker", code="worker_silent")
    async with desk.as_user("owner").running("agents", "restart", agent_id) as process:
        assert process.stderr is not None
        assert b"no worker answers yet" in await asyncio.wait_for(process.stderr.readline(), 30)
        desk.api.lives.away = None
        out, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, err) == (0, b"")
    (begun,) = (await desk.api.ask("GET", "/api/agents?state=starting")).json()["items"]
    assert out.decode().splitlines()[0] == begun["agentId"]
    assert len(await desk.api.sql("SELECT 1 FROM idempotency WHERE scope LIKE 'start-agent:%'")) == 1


async def test_restart_of_a_running_agent_shows_that_it_restarts(desk: Desk) -> None:
    agent_id = await desk.api.running()
    shown = await desk.as_user("owner")("agents", "restart", agent_id)
    assert (shown.code, shown.err) == (0, "")
    assert re.search(r"^  state +restarting$", shown.out, re.MULTILINE), shown.out


async def test_who_waits_sees_place_and_wait(desk: Desk) -> None:
    await desk.api.lives.look(0)
    berth = desk.as_user("owner")
    started = await berth("agents", "start", "shop")
    assert started.code == 0
    agent_id, state, word, place = started.out.split()[:4]
    assert (state, word, place) == ("queued", "place", "1,")
    waiting = await berth("queue")
    assert waiting.out.splitlines()[1].split()[:3] == [agent_id, "shop", "1"]
    assert "min" in waiting.out
    left = await berth("agents", "stop", agent_id, "--wait", "--json")
    assert (left.code, json.loads(left.out)["state"]) == (0, "cancelled")


async def test_warned_agent_is_kept_by_the_name_of_its_project(desk: Desk) -> None:
    agent_id = await desk.api.running()
    berth = desk.as_user("owner")
    warned = await berth("agents", "stop", "shop", "--grace", "60")
    assert warned.code == 0
    assert "draining" in warned.out
    listed = await berth("agents", "list")
    assert "user_requested, ends in" in listed.out
    kept = await berth("agents", "keep", "shop", "--json")
    assert (kept.code, json.loads(kept.out)["agentId"]) == (0, agent_id)
    late = await berth("agents", "keep", "shop")
    assert late.code == 3
    assert "no warning to take back" in late.line
    assert (await berth("agents", "stop", "shop")).code == 0
    assert "this stop cannot be taken back" in (await berth("agents", "keep", "shop")).line


async def test_admin_resizes_and_moves_an_agent_and_nobody_else_does(desk: Desk) -> None:
    agent_id = await desk.api.running()
    admin = desk.as_user("admin", role=Role.ADMIN)
    resized = await admin("agents", "resize", agent_id, "--cpu", "1500m", "--memory", "2Gi", "--json")
    assert (resized.code, json.loads(resized.out)["agentId"]) == (0, agent_id)
    assert desk.api.lives.sizes == [Size(cpu=1.5, memory_mib=2048)]
    assert agent_id in (await admin("agents", "migrate", agent_id)).out
    nothing = await admin("agents", "resize", agent_id)
    assert (nothing.code, "--memory 2Gi" in nothing.line) == (2, True)
    small = await admin("agents", "resize", agent_id, "--memory", "1Mi")
    assert (small.code, "its request of 512 MiB" in small.line) == (2, True)
    desk.api.lives.verdict = OrderAnswer(verdict=Verdict.REFUSED, state=AgentState.RUNNING, detail="node-2 is full")
    refused = await admin("agents", "migrate", agent_id)
    assert (refused.code, "node-2 is full" in refused.line) == (3, True)
    for order in (("resize", "shop", "--cpu", "1"), ("migrate", "shop")):
        own = await desk.as_user("owner")("agents", *order)
        assert (own.code, "for administrators" in own.line) == (3, True)


async def test_admin_ends_anyones_agent_with_reason_and_force_and_nobody_else_does(desk: Desk) -> None:
    agent_id = await desk.api.running()
    for named in (agent_id, "shop"):
        refused = await desk.as_user("owner")("agents", "terminate", named)
        assert (refused.code, "for administrators" in refused.line) == (3, True)
    admin = desk.as_user("admin", role=Role.ADMIN)
    warned = await admin("agents", "terminate", agent_id, "--reason", "maintenance", "--grace", "60", "--json")
    assert (warned.code, json.loads(warned.out)["reason"]) == (0, "maintenance")
    assert (await admin("agents", "terminate", agent_id, "--force")).code == 0
    assert [(order.grace_seconds, order.force) for order in desk.api.lives.stops] == [(60, False), (None, True)]
    ended = await admin("agents", "terminate", agent_id, "--abandon", "--wait", "--json")
    assert (ended.code, json.loads(ended.out)["state"]) == (0, "terminated")
    again = await admin("agents", "terminate", agent_id)
    assert (again.code, "its life is over" in again.line) == (3, True)
    assert (await admin("agents", "terminate", agent_id, "--grace", "601")).code == 2


async def test_admin_orders_a_maintenance_and_nobody_else_does(desk: Desk) -> None:
    refused = await desk.as_user("owner")("maintenance", "--pool", "default")
    assert (refused.code, "for administrators" in refused.line) == (3, True)
    admin = desk.as_user("admin", role=Role.ADMIN)
    ordered = await admin("maintenance", "--node", "worker-3", "--reason", "a new kernel", "--json")
    assert (ordered.code, json.loads(ordered.out)["node"]) == (0, "worker-3")
    assert (await admin("maintenance", "--pool", "default")).out.endswith(": 2 agents of pool default warned\n")
    later = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
    assert "agents are warned at" in (await admin("maintenance", "--node", "worker-3", "--at", later)).out
    day = await admin("maintenance", "--pool", "default", "--at", "20261201")
    assert (day.code, "startsAt" in day.err, "it has no zone" in day.err) == (2, True, True)
    desk.api.lives.warned = 0
    nobody = await admin("maintenance", "--node", "worker-33")
    assert (nobody.code, "no agent lives on machine worker-33, so nobody is warned" in nobody.out) == (0, True)
    assert [(each.pool, each.node) for each in desk.api.lives.maintenances][:2] == [
        (None, "worker-3"),
        ("default", None),
    ]
    both = await admin("maintenance", "--pool", "default", "--node", "worker-3")
    assert (both.code, "say --pool or --node" in both.line) == (2, True)


async def test_unknown_project_is_refused_with_the_command_that_makes_one(desk: Desk) -> None:
    refused = await desk.as_user("owner")("agents", "start", "nowhere")
    assert (refused.code, refused.out) == (3, "")
    assert "no such project" in refused.line
    assert "berth token USER --project PROJECT" in refused.line


def test_event_with_a_long_detail_stays_one_short_line_that_ends_as_the_detail_does() -> None:
    log = "\n".join(f"line {number}" for number in range(100))
    event = {"at": "2026-01-02T03:04:05Z", "kind": "agent.failed", "reason": "crash"}
    line = event_line({**event, "detail": {"detail": log, "usage": {"seconds": 8.95712345, "peak": 7}}})
    assert "\n" not in line
    assert len(line) < 250
    assert "line 99  usage=seconds:8.95712,peak:7" in line


def test_explanation_of_an_agent_that_lives_has_no_refusals() -> None:
    living = {"agentId": "ag-1", "state": "running"}
    full = {"check": "below_your_limit", "passed": False, "numbers": {"limit": 1, "used": 1}}
    found = {"status": "existing", "reason": None, "startAt": None, "agent": living, "checks": [full], "place": None}
    assert list(lines({**found, "helps": []})) == ["lives already  ag-1 is running"]


def test_event_with_a_list_tells_each_of_it() -> None:
    event = {"at": "2026-01-02T03:04:05Z", "kind": "agent.terminated", "reason": "user"}
    works = [{"attempt": attempt, "bytes": attempt * 10} for attempt in (2, 1)]
    assert event_line({**event, "detail": {"savedWork": works}}).endswith(
        "savedWork=attempt:2,bytes:20;attempt:1,bytes:10"
    )
    assert "savedWork" not in event_line({**event, "detail": {"savedWork": []}})


async def test_wait_for_a_start_that_fails_says_why(desk: Desk) -> None:
    async with desk.as_user("owner").running("agents", "start", "shop", "--wait") as process:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        failed = (AgentState.FAILED, EventKind.FAILED, "image_pull")
        await desk.api.lives.move(line.split()[0].decode(), *failed)
        _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert "is failed (image_pull)" in err.decode().splitlines()[-1]


async def test_wait_for_a_start_prints_one_document_for_programs(desk: Desk) -> None:
    agent_id = await desk.api.running()
    said = await desk.as_user("owner")("agents", "start", "shop", "--wait", "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert (found["agentId"], found["state"]) == (agent_id, "running")


async def test_nothing_in_an_agents_words_reaches_the_terminal_as_a_command(desk: Desk) -> None:
    agent_id = await desk.api.running()
    evil = "gone\x1b]0;owned\x07\nFAKE LINE\x9b2J"
    await desk.api.lives.move(agent_id, AgentState.FAILED, EventKind.FAILED, evil)
    berth = desk.as_user("owner")
    for command in (("agents", "list", "--all"), ("agents", "show", agent_id), ("agents", "events", agent_id)):
        shown = await berth(*command)
        assert shown.code == 0
        assert "gone" in shown.out
        assert not {"\x1b", "\x07", "\x9b"} & set(shown.out)
        assert not any(line.startswith("FAKE") for line in shown.out.splitlines())
    document = await berth("agents", "show", agent_id, "--json")
    assert not {"\x1b", "\x07", "\x9b"} & set(document.out)
    assert json.loads(document.out)["reason"] == evil


async def test_command_gets_its_parameters_and_a_picture_becomes_a_file(live: LiveStage, cli: Cli) -> None:
    agent = await live.agent(await live.user("ann"))
    asked: list[Execute] = []

    async def run(order: Execute) -> dict[str, Any]:
        asked.append(order)
        if order.command != "screenshot":
            return {"url": "https://example.org/"}
        headers = {"X-Agent-Token": agent.token, "Content-Type": "image/png"}
        stored = await live.http.put(
            f"{live.replicas[0]}/agent-artefacts/{order.command_id}", content=PNG, headers=headers
        )
        return dict(stored.json())

    token = live.bearer(agent.user_id)["Authorization"].removeprefix("Bearer ")
    berth = cli.given(API_URL=live.replicas[0], TOKEN=token)
    fake = live.fake(agent, execute=run)
    async with fake.online():
        done = await berth("agents", "exec", agent.agent_id, "navigate", "url=https://example.org/?a=b", "newTab=true")
        assert (done.code, json.loads(done.out)) == (0, {"url": "https://example.org/"})
        assert asked[0].parameters == {"url": "https://example.org/?a=b", "newTab": True}
        shot = await berth("agents", "exec", agent.agent_id, "screenshot", "-o", "page.png")
        assert shot.code == 0, shot.err
        assert (cli.home / "page.png").read_bytes() == PNG
        wrong = await berth("agents", "exec", agent.agent_id, "navigate", "uri=x")
        assert wrong.code == 2
        assert "parameters.url" in wrong.line
        unknown = await berth("agents", "exec", agent.agent_id, "fly")
        assert unknown.code == 2
        assert "screenshot" in unknown.line


async def test_wrong_and_expired_tokens_are_refused_with_where_to_get_one(desk: Desk) -> None:
    expired = await desk.as_user("owner", seconds=-60)("agents", "list")
    assert expired.code == 3
    assert "expired" in expired.line
    assert "berth token USER" in expired.line
    forged = await desk.cli.given(API_URL=desk.url, TOKEN="x.y.z")("agents", "list")
    assert forged.code == 3
    nobody = await desk.as_user("nobody")("agents", "list")
    assert nobody.code == 3
    assert "does not know this user" in nobody.line
    without = await desk.cli.given(API_URL=desk.url)("agents", "list")
    assert without.code == 2
    assert "BERTH_TOKEN is not set" in without.line
    watching = await desk.as_user("owner", seconds=-60)("agents", "watch")
    assert watching.code == 3
    assert "expired" in watching.line


@pytest.mark.parametrize("command", [("agents", "list"), ("agents", "watch"), ("agents", "start", "shop")])
async def test_absent_berth_is_not_reachable(
    cli: Cli, serve_json: Callable[[Callable[[], Any]], Awaitable[str]], command: tuple[str, ...]
) -> None:
    other = (await serve_json(lambda: {"hello": "world"})).removesuffix("/keys")
    for url in ("http://127.0.0.1:9", other):
        said = await cli.given(API_URL=url, TOKEN="x")(*command)
        assert (said.code, said.out) == (4, "")
        assert url in said.line


async def test_address_comes_from_the_local_stack_of_the_data_folder(desk: Desk, tmp_path: Path) -> None:
    data = tmp_path / ".berth"
    data.mkdir()
    (data / "stack.json").write_text(json.dumps({"api": desk.url}))
    berth = desk.as_user("owner")
    del berth.environment["BERTH_API_URL"]
    assert (await berth("queue", "--json")).code == 0


async def test_ids_with_slashes_and_blanks_are_one_thing(desk: Desk) -> None:
    await desk.api.member("owner", ["a/b c?d"], tier=Tier.BASIC)
    berth = desk.as_user("owner")
    started = await berth("agents", "start", "a/b c?d", "--json")
    assert json.loads(started.out)["agent"]["projectId"] == "a/b c?d"
    shown = await berth("agents", "show", "a/b c?d", "--json")
    assert json.loads(shown.out)["agentId"] == json.loads(started.out)["agent"]["agentId"]
