"""Whole lives, told to a backend and to their users, through outages of whoever is told."""

import re
from typing import Any

from core.domain.lifecycle import AgentState
from core.domain.notices import Patience
from core.domain.recovery import FailureKind
from tests.fixtures.receivers import Backend, Mailbox
from tests.fixtures.stage import SetStage, Stage, until

SOON = Patience(retry_seconds=0.2, retry_most_seconds=0.4)
ONE_LIFE = ["requested", "queued", "admitted", "starting", "ready", "draining", "terminated"]


async def address(stage: Stage, email: str = "ann@example.org") -> None:
    await stage.member("ann", "shop")
    await stage.sql("UPDATE users SET email = :email", email=email)


async def outbox(stage: Stage, state: str) -> list[dict[str, Any]]:
    return await stage.sql("SELECT * FROM notices WHERE state = :state ORDER BY created_at, notice_id", state=state)


async def delivered(stage: Stage) -> None:
    async def empty() -> bool:
        return not await outbox(stage, "pending")

    await until(empty, "every notice to be settled")


async def test_backend_hears_of_each_event_of_a_life_once(set_stage: SetStage, backend: Backend) -> None:
    stage = await set_stage(webhook=backend.settings())
    agent_id = await stage.started()
    await stage.stop(agent_id)
    await stage.until_closed()
    await delivered(stage)
    assert backend.kinds == [f"agent.{kind}" for kind in ONE_LIFE]
    assert len({each.id for each in backend.taken}) == len(backend.taken) == len(ONE_LIFE)
    log = await stage.events(agent_id)
    told = {each.told["data"]["seq"]: each.told for each in backend.taken}
    for event in log:
        data = told[event.seq or 0]["data"]
        assert (data["agentId"], data["userId"], data["projectId"]) == (agent_id, "ann", "shop")
        assert (data["state"], data["reason"], data["detail"]) == (event.state, event.reason, event.detail)


async def test_what_happens_while_both_receivers_are_down_arrives_once_when_they_are_back(
    set_stage: SetStage, backend: Backend, mailbox: Mailbox
) -> None:
    stage = await set_stage(webhook=backend.settings(), smtp=mailbox.settings(), notices=SOON)
    await address(stage)
    await backend.down()
    await mailbox.down()
    agent_id = await stage.started()
    await stage.fail(agent_id, FailureKind.CANNOT_START)
    await stage.until_closed()
    events = [event.kind.value for event in await stage.events(agent_id)]

    async def tried() -> bool:
        waiting = await outbox(stage, "pending")
        return len(waiting) == len(events) + 1 and all(row["tries"] > 1 for row in waiting)

    await until(tried, "every notice to have been tried twice in vain")
    assert {row["error"] for row in await outbox(stage, "pending")} == {"webhook_unreachable", "smtp_unreachable"}
    await backend.up()
    await mailbox.up()
    await delivered(stage)
    # The e-mail is an event too, of which the backend hears.
    assert backend.kinds == [*events, "notice.sent"]
    assert len({each.id for each in backend.taken}) == len(backend.taken)
    assert mailbox.subjects == ["Your agent in shop failed"]
    assert not await outbox(stage, "dead")


async def test_failed_agents_user_gets_one_letter_that_says_what_happened_and_where_to_restart(
    set_stage: SetStage, mailbox: Mailbox
) -> None:
    stage = await set_stage(smtp=mailbox.settings())
    await address(stage)
    agent_id = await stage.started()
    await stage.fail_for_good(agent_id)
    await delivered(stage)
    assert mailbox.envelopes == [("berth@example.org", ["ann@example.org"])]
    (letter,) = mailbox.letters
    text = letter.get_content()
    assert "Its browser or desktop crashed." in text
    assert f"{stage.settings.public_url()}/#/agents/{agent_id}" in text
    assert letter.get_content_type() == "text/plain"
    assert re.fullmatch(rf"<{agent_id}-\d+-email@example.org>", letter["Message-ID"])
    sent = (await stage.events(agent_id))[-1]
    assert (sent.kind, sent.detail["channel"], sent.detail["about"]) == ("notice.sent", "email", "agent.failed")


async def watched(stage: Stage, agent_id: str, viewers: int) -> None:
    await stage.sql(
        "INSERT INTO channels (agent_id, attempt, last_seen_at, health)"
        " VALUES (:a, 1, now(), jsonb_build_object('viewers', CAST(:viewers AS int)))"
        " ON CONFLICT (agent_id, attempt) DO UPDATE SET health = excluded.health, last_seen_at = now()",
        a=agent_id,
        viewers=viewers,
    )


async def test_warning_goes_by_letter_to_whoever_does_not_watch(set_stage: SetStage, mailbox: Mailbox) -> None:
    stage = await set_stage({"grace_seconds": 600}, smtp=mailbox.settings())
    await stage.member("bob", "shop")
    await stage.sql("UPDATE users SET email = user_id || '@example.org'")
    seen, unseen = await stage.started("bob"), await stage.started("ann")
    await address(stage)
    await watched(stage, seen, 1)
    await watched(stage, unseen, 0)
    for agent_id in (seen, unseen):
        await stage.stop(agent_id, "maintenance")
        await stage.until(agent_id, AgentState.DRAINING)
        # Told again about the same grace, only sooner: the same incident.
        await stage.stop(agent_id, "maintenance", grace_seconds=300)
    await stage.stop(seen, "operator", force=True)
    await stage.stop(unseen, "operator", force=True)
    await stage.until(unseen, AgentState.TERMINATED)
    await delivered(stage)
    (letter,) = mailbox.letters
    assert letter["Subject"] == "Your agent in shop is about to stop"
    assert "the machine it runs on is to be serviced" in letter.get_content()
    assert unseen in letter.get_content()


async def test_whoever_has_to_make_room_gets_one_letter_with_the_time_and_why(
    set_stage: SetStage, mailbox: Mailbox
) -> None:
    stage = await set_stage({"grace_seconds": 600}, smtp=mailbox.settings())
    await address(stage)
    agent_id = await stage.started()
    await watched(stage, agent_id, 1)
    await stage.stop(agent_id, "resource_pressure", detail="memory 95 % (limit 90 %)")
    deadline = (await stage.until(agent_id, AgentState.DRAINING)).deadline_at
    assert deadline is not None
    await stage.stop(agent_id, "operator", force=True)
    await stage.until(agent_id, AgentState.TERMINATED)
    await delivered(stage)
    (letter,) = mailbox.letters
    assert letter["Subject"] == "Your agent in shop has to make room"
    assert f"stops at {deadline:%H:%M} UTC" in letter.get_content()
    assert "memory 95 % (limit 90 %)" in letter.get_content()


async def test_without_a_mail_server_or_an_address_no_letter_is_waiting(set_stage: SetStage, backend: Backend) -> None:
    stage = await set_stage(webhook=backend.settings())
    await address(stage)
    agent_id = await stage.started()
    await stage.fail(agent_id, FailureKind.CANNOT_START)
    await stage.until_closed()
    await delivered(stage)
    assert await stage.sql("SELECT DISTINCT channel FROM notices") == [{"channel": "webhook"}]


async def test_refused_request_is_told_to_the_backend(set_stage: SetStage, backend: Backend) -> None:
    stage = await set_stage(webhook=backend.settings())
    await stage.started("ann", "bank")
    await stage.start("ann", "shop")
    await delivered(stage)
    (refused,) = [each for each in backend.taken if each.told["type"] == "agent.rejected"]
    assert refused.told["data"]["agentId"] is None
    assert refused.told["data"]["reason"] == "max_agents_exceeded"


async def test_worker_that_goes_and_comes_back_sends_what_was_written_meanwhile(
    set_stage: SetStage, backend: Backend
) -> None:
    stage = await set_stage(webhook=backend.settings(), notices=SOON)
    await backend.down()
    agent_id = await stage.started()
    await stage.worker_down()
    await backend.up()
    await stage.worker_up()
    await delivered(stage)
    assert backend.kinds[:5] == [f"agent.{kind}" for kind in ONE_LIFE[:5]]
    assert {each.told["data"]["agentId"] for each in backend.taken} == {agent_id}
