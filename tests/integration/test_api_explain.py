"""explain-start: what a start would lead to, with the numbers of each check, and nothing changed by asking."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from core.db.repositories import credits
from core.domain.lifecycle import AgentState
from core.domain.templates import Pool
from core.domain.tiers import Tier
from core.settings import Project as ProjectLimit
from core.settings import Queue
from tests.fakes.lives import SimulatedLives
from tests.fixtures.api import Api, replica
from tests.fixtures.terminal import Desk


async def explained(api: Api, user_id: str = "owner", project_id: str = "shop", **body: Any) -> dict[str, Any]:
    answer = await api.ask("POST", f"/api/projects/{project_id}/explain-start", user_id, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def failed(found: dict[str, Any]) -> dict[str, Any]:
    return {each["check"]: each["numbers"] for each in found["checks"] if not each["passed"]}


async def fill(api: Api, *tiers: Tier) -> None:
    """Let no agent start, and a user of each tier wait."""
    await api.sql("INSERT INTO pool_overrides (pool, capacity, paused) VALUES ('default', 0, false) RETURNING pool")
    for number, tier in enumerate(tiers):
        await api.member(f"{tier.value}-{number}", [f"project-{number}"], tier=tier)
        assert (await api.start(f"{tier.value}-{number}", f"project-{number}")).status_code == 202


async def test_start_with_room_would_be_created_and_asking_makes_nothing(api: Api) -> None:
    found = await explained(api)
    assert (found["status"], found["reason"], found["place"], found["helps"]) == ("created", None, None, [])
    assert all(each["passed"] for each in found["checks"])
    room = next(each for each in found["checks"] if each["check"] == "room_in_pool")
    assert room["numbers"] == {"holders": 0, "capacity": 100, "clusterFree": 100}
    assert await api.sql("SELECT agent_id FROM agents") == []
    assert (await api.ask("GET", "/api/agents")).json()["items"] == []
    assert api.lives.orders["start"] == 0


async def test_agent_that_runs_is_explained_as_living_and_not_as_a_previous_one_that_is_ending(api: Api) -> None:
    await api.running()
    found = await explained(api)
    assert found["status"] == "existing"
    assert failed(found) == {"below_your_limit": {"limit": 1, "used": 1}}


async def test_what_is_explained_is_what_then_happens(api: Api) -> None:
    await fill(api, Tier.ENTERPRISE, Tier.FREE, Tier.BASIC)
    await api.member("owner", [], tier=Tier.BASIC)
    found = await explained(api)
    assert (found["status"], found["reason"]) == ("queued", "queue_ahead")
    started = (await api.start()).json()
    assert (started["status"], started["reason"]) == ("queued", "queue_ahead")
    for same in ("position", "estimatedWaitMinutes", "estimatedWait"):
        assert found["place"][same] == started[same]


@pytest.mark.parametrize("ageing", [None, 600.0])
@pytest.mark.parametrize("evicted", [False, True], ids=["newcomer", "evicted"])
async def test_place_that_is_explained_counts_other_agents_evictions_and_ageing_as_the_start_then_does(
    api: Api, evicted: bool, ageing: float | None
) -> None:
    async with replica(
        api.db, api.settings.model_copy(update={"queue": Queue(ageing_seconds=ageing)}), api.lives
    ) as it:
        it.lives.settings = it.settings
        await it.member("owner", ["first", "second", "shop"], tier=Tier.PREMIUM)
        if evicted:
            async with it.db.transaction() as session:
                await credits.give(session, "owner", "shop", datetime.now(UTC))
        await fill(it, Tier.PREMIUM)
        for project in ("first", "second"):
            await it.start("owner", project)
        await it.member("new", ["fresh"], tier=Tier.PREMIUM)
        await it.start("new", "fresh")
        found = await explained(it)
        assert await it.sql("SELECT count(*) AS owed FROM eviction_credits") == [{"owed": int(evicted)}]
        started = (await it.start()).json()
        for same in ("position", "estimatedWaitMinutes", "estimatedWait"):
            assert found["place"][same] == started[same]
        assert started["position"] == (1 if evicted else 5)
        assert await it.sql("SELECT count(*) AS owed FROM eviction_credits") == [{"owed": 0}]


async def test_who_would_wait_is_told_who_is_ahead_by_tier_and_what_a_higher_tier_would_change(api: Api) -> None:
    await fill(api, Tier.ENTERPRISE, Tier.FREE, Tier.BASIC, Tier.FREE)
    found = await explained(api)
    assert found["place"]["ahead"] == {"free": 2, "basic": 1, "premium": 0, "enterprise": 1}
    assert found["place"]["position"] == 5
    assert failed(found) == {
        "nobody_ahead": {"waiting": 4},
        "room_in_pool": {"holders": 0, "capacity": 0, "clusterFree": 100},
    }
    wait, upgrade = found["helps"]
    assert wait["action"] == "wait"
    assert (upgrade["action"], upgrade["tier"], upgrade["place"]["position"]) == ("upgrade_subscription", "basic", 3)


async def test_who_is_at_the_limit_is_told_which_agent_to_stop_and_which_tier_allows_more(api: Api) -> None:
    await api.member("owner", ["second"])
    agent_id = await api.running()
    found = await explained(api, project_id="second")
    assert (found["status"], found["reason"]) == ("rejected", "max_agents_exceeded")
    assert failed(found)["below_your_limit"] == {"limit": 1, "used": 1}
    stop, upgrade = found["helps"]
    assert (stop["action"], stop["agentId"], stop["projectId"]) == ("stop_agent", agent_id, "shop")
    assert (upgrade["action"], upgrade["tier"]) == ("upgrade_subscription", "basic")


async def test_project_whose_agent_lives_is_told_of_it(api: Api) -> None:
    agent_id = await api.running()
    found = await explained(api)
    assert (found["status"], found["agent"]["agentId"]) == ("existing", agent_id)
    assert found["agent"]["state"] == AgentState.RUNNING


async def test_agent_that_a_start_would_keep_is_there_already(api: Api) -> None:
    agent_id = await api.running()
    await api.sql("UPDATE agents SET state = 'draining', keepable = true RETURNING agent_id")
    found = await explained(api)
    assert (found["status"], found["agent"]["agentId"], found["place"]) == ("existing", agent_id, None)
    await api.sql("UPDATE agents SET keepable = false RETURNING agent_id")
    found = await explained(api)
    assert (found["status"], found["reason"]) == ("queued", "previous_ending")
    assert [each["action"] for each in found["helps"]] == ["wait"], "no tier makes an agent end sooner"


async def test_expired_subscription_is_renewed_before_anything_else_helps(api: Api) -> None:
    await api.sql("UPDATE users SET subscription_active_until = now() - interval '1 s' RETURNING user_id")
    found = await explained(api)
    assert (found["status"], found["reason"]) == ("rejected", "subscription_inactive")
    assert [each["action"] for each in found["helps"]] == ["renew_subscription"]


async def test_full_queue_is_told_to_those_alone_who_would_have_to_wait(api: Api) -> None:
    async with replica(api.db, api.settings.model_copy(update={"queue": Queue(max=1)}), api.lives) as small:
        assert (await explained(small))["status"] == "created"
        await fill(small, Tier.FREE)
        found = await explained(small)
        assert (found["status"], found["reason"]) == ("rejected", "queue_full")
        assert [each["action"] for each in found["helps"]] == ["retry_later"]


async def test_cluster_that_nobody_has_looked_at_is_unknown_and_never_free(api: Api) -> None:
    await api.sql("DELETE FROM clusters RETURNING cluster")
    found = await explained(api)
    assert (found["status"], found["reason"]) == ("queued", "insufficient_cluster_resources")
    assert failed(found)["cluster_not_choked"] == {"known": False, "choked": False, "snapshot": "unknown"}
    assert failed(found)["room_in_pool"]["clusterFree"] is None


async def test_start_that_waits_for_others_to_be_usable_is_foretold_minutes_and_not_a_life(api: Api) -> None:
    pools = {"default": Pool(runtime="memory", capacity=100, max_starting=1)}
    limited = api.settings.model_copy(update={"pools": pools})
    async with replica(api.db, limited, SimulatedLives(api.db, limited)) as slow:
        started = (await slow.start("stranger", "other")).json()["agent"]["agentId"]
        found = await explained(slow)
        assert (found["status"], found["reason"]) == ("queued", "too_many_starting")
        assert failed(found) == {"starts_below_limit": {"starting": 1, "maxStarting": 1}}
        assert (found["place"]["estimatedWaitMinutes"], found["place"]["estimatedWait"]) == (1, {"low": 0, "high": 1})
        asked = (await slow.start()).json()
        assert (asked["reason"], asked["estimatedWaitMinutes"]) == ("too_many_starting", 1)
        await slow.lives.run(started)
        await slow.ask("POST", f"/api/agents/{asked['agentId']}/stop")
        assert (await explained(slow))["status"] == "created"


async def test_shut_door_is_explained_with_each_use_beside_its_limit(api: Api) -> None:
    await api.lives.look(9, memory_percent=93.44, disk_percent=50)
    found = await explained(api)
    assert (found["status"], found["reason"]) == ("queued", "insufficient_cluster_resources")
    numbers = failed(found)["cluster_not_choked"]
    assert numbers["over"] == "memory 93 % (limit 90 %)"
    assert (numbers["memoryPercent"], numbers["memoryLimit"], numbers["cpuPercent"]) == (93.4, 90, None)
    await api.lives.look(9, disk_percent=91)
    assert (await explained(api))["reason"] == "disk_emergency"


async def test_template_that_no_machine_could_run_is_refused_and_never_queued(api: Api) -> None:
    why = "a template asks for 900 cores, this machine has 2"
    await api.lives.look(9, too_large={"default": why})
    found = await explained(api)
    assert (found["status"], found["reason"]) == ("rejected", "never_satisfiable")
    assert failed(found)["template_fits"] == {"detail": why}
    assert [each["action"] for each in found["helps"]] == ["choose_smaller_template"]
    refused = await api.start()
    assert (refused.status_code, refused.json()["reason"]) == (403, "never_satisfiable")
    assert refused.json()["action"] == "choose_smaller_template"


async def test_full_project_is_explained_with_its_limit(api: Api) -> None:
    settings = api.settings.model_copy(update={"project": ProjectLimit(max_agents=0)})
    async with replica(api.db, settings, api.lives) as strict:
        found = await explained(strict)
        assert (found["status"], found["reason"]) == ("rejected", "max_project_agents_exceeded")
        assert failed(found)["below_project_limit"] == {"limit": 0, "used": 0}


@pytest.mark.parametrize(("project_id", "body", "status"), [("other", {}, 404), ("shop", {"template": "no"}, 422)])
async def test_stranger_to_a_project_and_unknown_template_are_refused(
    api: Api, project_id: str, body: dict[str, str], status: int
) -> None:
    answer = await api.ask("POST", f"/api/projects/{project_id}/explain-start", json=body)
    assert answer.status_code == status


async def test_command_line_says_it_in_lines(desk: Desk) -> None:
    await fill(desk.api, Tier.ENTERPRISE, Tier.FREE)
    said = await desk.as_user("owner")("explain", "shop")
    assert (said.code, said.err) == (0, "")
    first, *rest = said.out.splitlines()
    assert first.startswith("would wait  queue_ahead  place 3, ")
    assert "  NO  room_in_pool          holders=0  capacity=0  clusterFree=100" in rest
    assert "  ahead: 1 enterprise, 0 premium, 0 basic, 1 free" in rest
    assert any(line.startswith("  helps: with the tier basic: place 2, ") for line in rest)
    whole = await desk.as_user("owner")("explain", "shop", "--json")
    assert json.loads(whole.out) == await explained(desk.api)
