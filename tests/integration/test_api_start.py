"""start-agent: one agent a user and project, one answer a key, whatever comes at once or dies between."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress

import pytest

from api import deps
from api.deps import Turnstile
from core.db.repositories import agents, idempotency
from core.domain.admission import RejectReason
from core.domain.lifecycle import AgentState, EndReason
from core.domain.orders import StartAnswer, StartOutcome, StopOrder
from core.domain.templates import Template
from core.domain.tiers import Tier
from core.errors import Unavailable
from core.settings import Queue
from tests.fixtures.api import Api, replica
from tests.fixtures.stage import until


async def test_first_start_creates_and_the_next_returns_the_same_agent(api: Api) -> None:
    first = await api.start()
    assert first.status_code == 201
    body = first.json()
    assert body["status"] == "created"
    assert body["agent"]["state"] == "starting"
    agent_id = body["agent"]["agentId"]
    assert body["connections"]["desktop"] == f"/api/agents/{agent_id}/desktop"

    again = await api.start()
    assert again.status_code == 200
    assert again.json()["agent"]["agentId"] == agent_id


async def test_hundred_calls_with_one_key_over_two_replicas_get_one_agent_and_one_answer(api: Api) -> None:
    async with replica(api.db, api.settings, api.lives) as other:
        answers = await asyncio.gather(*((api, other)[n % 2].start(key="once") for n in range(100)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert await api.sql("SELECT count(*) AS n FROM agents") == [{"n": 1}]
    assert api.lives.most_at_once <= 2, "each replica may have one order under way, for Temporal takes ten a workflow"


async def test_hundred_calls_without_a_key_get_one_agent_created_once(api: Api) -> None:
    api.lives.gate.clear()
    calls = [asyncio.create_task(api.start()) for _ in range(100)]
    await api.lives.entered.wait()
    api.lives.gate.set()
    answers = await asyncio.gather(*calls)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 99}
    assert len({answer.json()["agent"]["agentId"] for answer in answers}) == 1


async def test_living_agent_answers_2500_calls_without_its_workflow(api: Api) -> None:
    await api.start()
    before = api.lives.orders["start"]
    # In waves, as sockets would bring them: here nothing else stands between the callers and the one loop they share.
    answers = [answer for _ in range(10) for answer in await asyncio.gather(*(api.start() for _ in range(250)))]
    assert Counter(answer.status_code for answer in answers) == {200: 2500}
    assert api.lives.orders["start"] == before


async def test_free_user_with_hundred_projects_at_once_gets_one_agent(api: Api) -> None:
    names = [f"p{n}" for n in range(100)]
    await api.member("greedy", names)
    answers = await asyncio.gather(*(api.start("greedy", name) for name in names))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 403: 99}
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["status"] == "rejected"
    assert problem["code"] == problem["reason"] == "max_agents_exceeded"
    assert problem["action"] == "upgrade_subscription"


async def test_same_key_gives_the_same_answer_after_the_life_ended(api: Api) -> None:
    first = await api.start(key="k")
    await api.lives.run(first.json()["agent"]["agentId"])
    await api.lives.end(first.json()["agent"]["agentId"])
    again = await api.start(key="k")
    assert (again.status_code, again.text) == (first.status_code, first.text)
    fresh = await api.start(key="another")
    assert fresh.status_code == 201
    assert fresh.json()["agent"]["agentId"] != first.json()["agent"]["agentId"]


async def test_rejection_is_kept_under_its_key(api: Api) -> None:
    await api.member("owner", ["second"])
    await api.start()
    refused = await api.start(project_id="second", key="k")
    await api.lives.end((await api.start()).json()["agent"]["agentId"])
    again = await api.start(project_id="second", key="k")
    assert (again.status_code, again.json()) == (403, refused.json())
    assert again.headers["content-type"] == "application/problem+json"


async def test_same_key_with_another_body_is_refused(api: Api) -> None:
    await api.start(key="k")
    reused = await api.start(key="k", json={"template": "default"})
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
    assert (await api.start(key="k", json={})).status_code == 201, "an empty body is the same as none"


async def test_same_key_of_another_project_or_user_is_another_key(api: Api) -> None:
    await api.member("owner", ["second"], Tier.BASIC)
    ids = [
        (await api.start(key="k")).json()["agent"]["agentId"],
        (await api.start(project_id="second", key="k")).json()["agent"]["agentId"],
        (await api.start("stranger", "other", key="k")).json()["agent"]["agentId"],
    ]
    assert len(set(ids)) == 3


async def test_key_is_forgotten_after_a_day(api: Api) -> None:
    first = await api.start(key="k")
    await api.lives.end(first.json()["agent"]["agentId"])
    await api.sql("UPDATE idempotency SET created_at = now() - interval '25 hours' RETURNING key")
    again = await api.start(key="k", json={"template": "default"})
    assert again.status_code == 201
    assert again.json()["agent"]["agentId"] != first.json()["agent"]["agentId"]


async def test_answer_decided_by_an_api_that_died_is_found_under_its_key_after_the_life_ended(api: Api) -> None:
    first = await api.start(key="k")
    agent_id = first.json()["agent"]["agentId"]
    await api.lives.end(agent_id)
    outcome = StartAnswer(outcome=StartOutcome.CREATED, agent_id=agent_id)
    await api.sql("UPDATE idempotency SET answer = NULL RETURNING key")
    async with api.db.transaction() as session:
        found = await api.sql("SELECT body_hash FROM idempotency")
        by = idempotency.KeyedBy(
            user_id="owner", scope=idempotency.start_scope("shop"), key="k", body_hash=found[0]["body_hash"]
        )
        await idempotency.record_outcome(session, by, outcome, api.app.state.deps.clock())
    before = api.lives.orders["start"]
    answers = await asyncio.gather(*(api.start(key="k") for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["agent"]["agentId"] for answer in answers} == {agent_id}
    assert len({answer.text for answer in answers}) == 1
    assert api.lives.orders["start"] == before


async def test_workflow_that_has_not_learnt_of_an_end_gives_pending_and_the_same_key_later_the_next_life(
    api: Api,
) -> None:
    first = (await api.start()).json()["agent"]["agentId"]
    await api.lives.end(first)
    api.lives.behind = first
    pending = await api.start(key="k")
    assert (pending.status_code, pending.json()) == (202, {"status": "pending"})
    api.lives.behind = None
    later = await api.start(key="k")
    assert later.status_code == 201
    assert later.json()["agent"]["agentId"] != first


async def test_silent_worker_gives_pending_and_the_same_key_later_the_answer(api: Api) -> None:
    api.lives.away = Unavailable("nobody there", code="worker_silent")
    pending = await api.start(key="k")
    assert (pending.status_code, pending.json()) == (202, {"status": "pending"})
    assert int(pending.headers["retry-after"]) > 0
    assert pending.headers["location"] == "/api/agents?projectId=shop"
    api.lives.away = None
    later = await api.start(key="k")
    assert later.status_code == 201
    assert (await api.start(key="k")).text == later.text


async def test_absent_temporal_is_a_problem_that_may_be_tried_again(api: Api) -> None:
    api.lives.away = Unavailable("down", code="temporal_unavailable")
    answer = await api.start(key="k")
    assert (answer.status_code, answer.json()["code"]) == (503, "temporal_unavailable")
    assert "retry-after" in answer.headers
    api.lives.away = None
    assert (await api.start(key="k")).status_code == 201


async def test_second_user_queues_with_position_and_wait(api: Api) -> None:
    await api.lives.look(1)
    await api.start()
    queued = await api.start("stranger", "other")
    assert queued.status_code == 202
    body = queued.json()
    assert body["status"] == "queued"
    assert body["position"] == 1
    assert body["estimatedWaitMinutes"] > 0
    assert body["estimatedWait"]["low"] <= body["estimatedWaitMinutes"] <= body["estimatedWait"]["high"]
    assert body["reason"] == "no_suitable_node"
    before = api.lives.orders["start"]
    again = await api.start("stranger", "other")
    assert again.json()["agentId"] == body["agentId"]
    assert api.lives.orders["start"] == before


async def test_full_queue_is_told_with_retry_after_and_the_key_may_try_again(api: Api) -> None:
    await api.lives.look(1)
    api.lives.settings = api.settings.model_copy(update={"queue": Queue(max=0)})
    await api.start()
    full = await api.start("stranger", "other", key="k")
    assert (full.status_code, full.json()["code"]) == (503, "queue_full")
    # Nothing is measured: one departure in ten minutes at the slowest.
    assert full.headers["retry-after"] == "600"
    await api.sql(
        "UPDATE life_statistics SET weight = 100, mean_minutes = 2.5, minutes = 100, counted_at = now() RETURNING pool"
    )
    assert (await api.start("stranger", "other", key="k")).headers["retry-after"] == "180"
    await api.lives.look(2)
    assert (await api.start("stranger", "other", key="k")).status_code == 201


async def test_start_while_draining_keeps_the_agent_when_its_grace_allows(api: Api) -> None:
    agent_id = await api.running()
    assert (await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 60})).status_code == 202
    again = await api.start()
    assert (again.status_code, again.json()["agent"]["agentId"]) == (200, agent_id)
    assert again.json()["agent"]["state"] == "running"
    assert api.lives.orders["keep"] == 1


@pytest.mark.parametrize("reason", [EndReason.OPERATOR, EndReason.SUBSCRIPTION_EXPIRED])
async def test_start_while_draining_for_good_queues_behind_the_previous_life(api: Api, reason: EndReason) -> None:
    agent_id = await api.running()
    async with api.db.transaction() as session:
        view = await agents.get(session, agent_id)
    assert view is not None
    await api.lives.stop(view, StopOrder(reason=reason.value, grace_seconds=60))
    again = await api.start()
    assert again.status_code == 202
    body = again.json()
    assert (body["status"], body["reason"]) == ("queued", "previous_ending")
    assert body["agentId"] != agent_id
    assert (await api.start()).json()["agentId"] == body["agentId"]


async def test_start_that_comes_too_late_to_keep_queues(api: Api) -> None:
    agent_id = await api.running()
    await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 60})
    api.lives.too_late = True
    again = await api.start()
    assert (again.status_code, again.json()["reason"]) == (202, "previous_ending")


async def test_caller_who_hangs_up_leaves_the_start_to_the_others(api: Api) -> None:
    api.lives.gate.clear()
    leaver = asyncio.create_task(api.start())
    await api.lives.entered.wait()
    leaver.cancel()
    with suppress(asyncio.CancelledError):
        await leaver
    stayer = asyncio.create_task(api.start())
    api.lives.gate.set()
    assert (await stayer).status_code == 200
    assert api.lives.orders["start"] == 1


async def test_refusal_of_one_template_is_no_answer_to_who_asks_for_another_meanwhile(api: Api) -> None:
    settings = api.settings.model_copy(update={"templates": {"huge": Template(), "vast": Template()}})
    await api.lives.look(100, too_large={"huge": "no machine is so large", "vast": "no machine is so large"})
    async with replica(api.db, settings, api.lives) as one:
        api.lives.gate.clear()
        huge = asyncio.create_task(one.start(key="a", json={"template": "huge"}))
        await api.lives.entered.wait()
        others = [
            asyncio.create_task(one.start(key=key, json={"template": template} if template else None))
            for key, template in (("b", "vast"), ("c", "huge"), ("d", None))
        ]
        await until(lambda: claimed(api, 4), "all keys to be claimed")
        api.lives.gate.set()
        answers = [(answer.status_code, answer.json()) for answer in await asyncio.gather(huge, *others)]
        codes = [code for code, _ in answers]
        # Whichever of the two that are left goes first, the small one gets an agent, and the large one none of its own.
        assert codes[0] == codes[2] == 403
        assert answers[3][1]["agent"]["template"] == "default"
        assert codes[1] in (200, 403)
        again = [await one.start(key=key, json={"template": "huge"}) for key in "ac"]
        again.append(await one.start(key="d"))
        assert [(answer.status_code, answer.json()) for answer in again] == [answers[n] for n in (0, 2, 3)]


async def claimed(api: Api, keys: int) -> bool:
    return bool(await api.sql(f"SELECT 1 FROM idempotency HAVING count(*) = {keys}"))  # noqa: S608  our own number


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"unknown": 1}, "invalid_request"),
        ({"template": "nowhere"}, "unknown_template"),
        ({"template": ""}, "invalid_request"),
        ([], "invalid_request"),
        ({"template": "\x00"}, "unknown_template"),
    ],
)
async def test_body_that_makes_no_sense_is_refused(api: Api, body: object, code: str) -> None:
    answer = await api.start(json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await api.sql("SELECT count(*) AS n FROM agents") == [{"n": 0}]


@pytest.mark.parametrize("reason", sorted(set(RejectReason) - {RejectReason.QUEUE_FULL}))
async def test_every_refusal_has_its_code_and_a_sentence_of_its_own(
    api: Api, monkeypatch: pytest.MonkeyPatch, reason: RejectReason
) -> None:
    async def refuse(_: object, *, anew: bool) -> StartAnswer:
        return StartAnswer(outcome=StartOutcome.REJECTED, reason=reason.value)

    monkeypatch.setattr(api.lives, "start", refuse)
    answer = await api.start()
    assert (answer.status_code, answer.json()["code"]) == (403, reason.value)
    assert " " in answer.json()["detail"]


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "é"])
async def test_malformed_key_is_refused(api: Api, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode("latin-1"), b"Authorization": api.bearer()["Authorization"].encode()}
    answer = await api.http.post("/api/projects/shop/start-agent", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_ids_with_slashes_name_different_agents(api: Api) -> None:
    await api.member("a/b", ["c"])
    await api.member("a", ["b/c"])
    one = await api.start("a/b", "c")
    assert (await api.start("a/b", "c%2F..%2Fd")).status_code == 404
    two = await api.start("a", "b%2Fc")
    assert one.status_code == 201
    assert two.status_code == 201, two.text
    assert len(await api.sql("SELECT DISTINCT workflow_id FROM agents")) == 2


async def test_states_of_an_ended_row_do_not_stand_in_the_way(api: Api) -> None:
    agent_id = await api.running()
    await api.lives.end(agent_id)
    again = await api.start()
    assert again.status_code == 201
    found = (await api.ask("GET", f"/api/agents/{agent_id}")).json()
    assert found["state"] == AgentState.TERMINATED
    assert found["connections"] is None


async def test_start_that_cannot_come_to_the_database_is_refused_and_not_made_when_its_caller_is_long_gone(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deps, "TURN_SECONDS", 0.5)
    turnstile: Turnstile = api.app.state.deps.turnstile
    async with AsyncExitStack() as hanging:
        # As many as are let to the database, and it answers none of them.
        for _ in range(10):
            await hanging.enter_async_context(turnstile)
        async with asyncio.timeout(20):
            refused = await api.start()
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await api.ask("GET", "/api/agents")).json()["items"] == []
    assert (await api.start()).status_code == 201
