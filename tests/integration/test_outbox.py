"""The outbox on a real database: nothing lost, nothing doubled, given up after a day, replayed by hand, forgotten."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.errors import HeaderParseError
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from temporalio.testing import ActivityEnvironment

from activities.messages import Delivered, Delivery
from activities.notices import NoticeActivities, Sender, senders_of
from activities.posting import WebhookSender
from api.cli import database_checks
from api.cli.verdicts import Verdict
from core.db.engine import Db
from core.db.repositories import events, notices, projects, retention, users
from core.domain.notices import Channel, Failure, Patience
from core.settings import Settings
from temporal.notices import open_channels
from tests.fixtures.receivers import Backend, Mailbox
from tests.fixtures.stage import until

HOOK = Delivery(channel=Channel.WEBHOOK)


class Outbox:
    """One user whose refused requests are told to a backend; a pass is what a workflow orders."""

    def __init__(self, db: Db, settings: Settings) -> None:
        self.db = db
        self.settings = settings
        self.senders: dict[Channel, Sender] = senders_of(settings)

    async def begin(self) -> None:
        await open_channels(self.db, self.settings, self.senders)
        async with self.db.transaction() as session:
            await users.put(session, "ann", email="ann@example.org")
            await projects.add(session, "shop", ["ann"])

    async def happen(self, times: int = 1) -> None:
        for _ in range(times):
            async with self.db.transaction() as session:
                await events.record_rejection(session, "ann", "shop", datetime.now(UTC), "queue_full", {})

    async def deliver(self, ask: Delivery = HOOK) -> Delivered:
        work = NoticeActivities(self.db, self.settings, self.senders)
        found: Delivered = await ActivityEnvironment().run(work.deliver_notices, ask)
        return found

    async def rows(self) -> list[dict[str, Any]]:
        return await self.sql("SELECT * FROM notices ORDER BY (event ->> 'cursor')::int")

    async def sql(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        async with self.db.transaction() as session:
            found: Any = await session.execute(text(statement), values)
            return [dict(row) for row in found.mappings()] if found.returns_rows else []

    async def later(self, hours: float) -> None:
        """So much time goes by, for all rows."""
        moved = "{0} = {0} - CAST(:by AS interval)"
        names = ("since", "created_at", "next_try_at", "ended_at")
        await self.sql(
            f"UPDATE notices SET {', '.join(moved.format(name) for name in names)}",  # noqa: S608  names of ours
            by=timedelta(hours=hours),
        )


SetUp = Callable[..., Awaitable[Outbox]]


@pytest_asyncio.fixture
async def outbox_of(db: Db) -> SetUp:
    async def set_up(**fields: Any) -> Outbox:
        outbox = Outbox(db, Settings(**fields))
        await outbox.begin()
        return outbox

    return set_up


@pytest_asyncio.fixture
async def outbox(outbox_of: SetUp, backend: Backend) -> Outbox:
    return await outbox_of(webhook=backend.settings())


async def test_event_that_is_rolled_back_leaves_no_notice(outbox: Outbox) -> None:
    async with outbox.db.transaction() as session:
        await events.record_rejection(session, "ann", "shop", datetime.now(UTC), "queue_full", {})
        await session.rollback()
    assert await outbox.rows() == []


async def test_crowd_of_passes_sends_each_notice_once(outbox: Outbox, backend: Backend) -> None:
    await outbox.happen(60)
    passes = await asyncio.gather(*(outbox.deliver() for _ in range(5)))
    assert sum(each.sent for each in passes) == 60
    assert len(backend.taken) == len({each.id for each in backend.taken}) == 60
    assert await outbox.deliver() == Delivered()


async def test_receiver_that_was_down_gets_everything_once_when_it_is_back(outbox: Outbox, backend: Backend) -> None:
    await backend.down()
    await outbox.happen(3)
    first = await outbox.deliver()
    assert (first.sent, first.retried) == (0, 3)
    assert first.next_in_seconds is not None
    assert 5 < first.next_in_seconds <= 10
    assert (await outbox.deliver()).retried == 0  # not before it is due again
    await outbox.later(hours=1)
    assert (await outbox.deliver()).retried == 3
    await backend.up()
    await outbox.later(hours=1)
    assert (await outbox.deliver()).sent == 3
    assert len({each.id for each in backend.taken}) == len(backend.taken) == 3
    assert [row["tries"] for row in await outbox.rows()] == [3, 3, 3]
    counted = await outbox.sql("SELECT outcomes FROM notice_channels WHERE channel = 'webhook'")
    assert counted == [{"outcomes": {"retried": 6, "sent": 3}}]


async def test_what_is_not_taken_for_a_day_is_dead_and_is_replayed_by_hand(outbox: Outbox, backend: Backend) -> None:
    backend.status = 503
    await outbox.happen()
    await outbox.deliver()
    await outbox.later(hours=23)
    assert (await outbox.deliver()).retried == 1
    await outbox.later(hours=2)
    given_up = await outbox.deliver()
    assert (given_up.dead, given_up.next_in_seconds) == (1, None)
    (row,) = await outbox.rows()
    assert (row["state"], row["error"], row["error_detail"]) == ("dead", "webhook_status", "HTTP 503")
    backend.status = 204
    async with outbox.db.transaction() as session:
        await notices.replay(session, row["notice_id"])
    assert (await outbox.deliver()).sent == 1
    assert [each.id for each in backend.taken] == [row["notice_id"]]


@pytest.mark.parametrize("sends", [True, False])
async def test_notice_is_dead_after_the_hours_of_the_settings_whether_or_not_this_worker_sends_it(
    outbox_of: SetUp, backend: Backend, *, sends: bool
) -> None:
    backend.status = 503
    outbox = await outbox_of(webhook=backend.settings(), notices=Patience(give_up_hours=50))
    if not sends:
        outbox.senders.clear()
    await outbox.happen()
    states = []
    for hours in (0, 49, 2):
        await outbox.later(hours)
        await outbox.deliver()
        states += [row["state"] for row in await outbox.rows()]
    assert states == ["pending", "pending", "dead"]


async def test_replayed_one_has_another_day(outbox: Outbox, backend: Backend) -> None:
    backend.status = 503
    await outbox.happen()
    await outbox.later(hours=25)
    assert (await outbox.deliver()).dead == 1
    (row,) = await outbox.rows()
    async with outbox.db.transaction() as session:
        await notices.replay(session, row["notice_id"])
    assert (await outbox.deliver()).retried == 1


async def test_worker_killed_between_send_and_note_sends_again_under_the_same_id(
    outbox: Outbox, backend: Backend
) -> None:
    await outbox.happen()
    async with outbox.db.transaction() as session:
        # Whoever wants to note it has to wait for us, and is killed while it does.
        await session.execute(text("LOCK TABLE notice_channels IN EXCLUSIVE MODE"))
        killed = asyncio.create_task(take_and_send(outbox))

        async def arrived() -> bool:
            return len(backend.taken) == 1

        await until(arrived, "the webhook to arrive")
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
    (row,) = await outbox.rows()
    assert (row["state"], row["tries"]) == ("pending", 1)
    assert (await outbox.deliver()).sent == 0  # it is still the dead one's
    await outbox.later(hours=1)
    assert (await outbox.deliver()).sent == 1
    first, second = backend.taken
    assert (first.id, first.body) == (second.id, second.body)
    assert await outbox.sql("SELECT outcomes FROM notice_channels WHERE channel = 'webhook'") == [
        {"outcomes": {"sent": 1}}
    ]


async def take_and_send(outbox: Outbox) -> None:
    """What a pass does, without the heartbeats that let it end in order."""
    work = NoticeActivities(outbox.db, outbox.settings, outbox.senders)
    async with outbox.db.single() as session:
        taken = await notices.take(session, Channel.WEBHOOK, timedelta(seconds=90), timedelta(hours=24))
    assert taken is not None
    await work._deliver(taken, outbox.senders[Channel.WEBHOOK])


async def test_pass_that_is_stopped_ends_what_it_has_begun_and_begins_no_more(outbox: Outbox, backend: Backend) -> None:
    await outbox.happen(40)
    at_once = outbox.senders[Channel.WEBHOOK].at_once
    environment = ActivityEnvironment()
    work = NoticeActivities(outbox.db, outbox.settings, outbox.senders)
    backend.gate.clear()
    running = asyncio.create_task(environment.run(work.deliver_notices, HOOK))

    async def begun() -> bool:
        return backend.connections == at_once

    await until(begun, "as many to be under way as may be")
    environment.cancel()
    backend.gate.set()
    await asyncio.gather(running, return_exceptions=True)
    sent = [row["notice_id"] for row in await outbox.rows() if row["state"] == "sent"]
    assert sorted(sent) == sorted(each.id for each in backend.taken)
    assert len(sent) == at_once
    assert (await outbox.deliver()).sent == 40 - at_once
    assert len({each.id for each in backend.taken}) == len(backend.taken) == 40


async def test_host_that_never_answers_holds_up_no_letter(outbox_of: SetUp, backend: Backend, mailbox: Mailbox) -> None:
    backend.silent = True
    outbox = await outbox_of(webhook=backend.settings(timeout_seconds=30), smtp=mailbox.settings())
    await outbox.happen(2)
    await outbox.sql(
        "INSERT INTO notices (notice_id, channel, kind, user_id, project_id, agent_id, recipient, event)"
        " SELECT 'ag-1-7-email', 'email', 'agent.failed', user_id, project_id, 'ag-1', 'ann@example.org', event"
        " FROM notices LIMIT 1"
    )
    hanging = asyncio.create_task(outbox.deliver())
    assert (await outbox.deliver(Delivery(channel=Channel.EMAIL))).sent == 1
    assert not hanging.done()
    await backend.down()
    assert (await hanging).retried == 2


async def test_letter_that_is_refused_for_good_is_dead_at_once(outbox_of: SetUp, mailbox: Mailbox) -> None:
    outbox = await outbox_of(smtp=mailbox.settings())
    await outbox.sql(
        "INSERT INTO notices (notice_id, channel, kind, user_id, project_id, agent_id, recipient, event) VALUES"
        " ('ag-1-7-email', 'email', 'agent.failed', 'ann', 'shop', NULL, 'ann@example.org', jsonb_build_object("
        "  'at', now(), 'seq', 7, 'cursor', 7, 'state', 'failed', 'reason', 'crash', 'detail', '{}'::jsonb))"
    )
    mailbox.answers = ["550 no such person"]
    assert (await outbox.deliver(Delivery(channel=Channel.EMAIL))).dead == 1
    assert [(row["state"], row["error"]) for row in await outbox.rows()] == [("dead", "smtp_refused")]


async def test_notice_that_berth_itself_fails_at_is_dead_after_a_day_and_keeps_no_other(
    outbox: Outbox, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outbox.happen(2)
    broken, other = [row["notice_id"] for row in await outbox.rows()]
    send = WebhookSender.send

    async def fails(sender: WebhookSender, notice: notices.Taken) -> Failure | None:
        if notice.notice_id == broken:
            raise HeaderParseError("expected atom but found '.com'")
        return await send(sender, notice)

    monkeypatch.setattr(WebhookSender, "send", fails)
    first = await outbox.deliver()
    assert (first.sent, first.retried) == (1, 1)
    assert [each.id for each in backend.taken] == [other]
    await outbox.later(hours=25)
    assert (await outbox.deliver()).dead == 1
    assert [(row["state"], row["error"]) for row in await outbox.rows()] == [("dead", "berth_failed"), ("sent", None)]


async def test_worker_that_sends_nothing_closes_no_channel_and_what_is_made_waits_for_one_that_does(
    outbox: Outbox, backend: Backend
) -> None:
    without = Outbox(outbox.db, Settings())
    await open_channels(without.db, without.settings, without.senders)
    await outbox.happen()
    assert await without.deliver() == Delivered()
    assert [row["state"] for row in await outbox.rows()] == ["pending"]
    assert (await outbox.deliver()).sent == 1
    assert len(backend.taken) == 1


async def test_channel_that_is_closed_by_hand_gets_no_more_notices_and_keeps_those_it_has_for_a_day(
    outbox: Outbox,
) -> None:
    await outbox.happen()
    outbox.senders.clear()
    async with outbox.db.transaction() as session:
        await notices.close_channel(session, Channel.WEBHOOK)
    await outbox.happen()
    assert len(await outbox.rows()) == 1
    await outbox.deliver()
    assert [row["state"] for row in await outbox.rows()] == ["pending"]
    await outbox.later(hours=25)
    await outbox.deliver()
    assert [(row["state"], row["error"]) for row in await outbox.rows()] == [("dead", "channel_closed")]
    await open_channels(outbox.db, outbox.settings, senders_of(outbox.settings))
    await outbox.happen()
    assert len(await outbox.rows()) == 2


async def test_doctor_tells_of_a_channel_that_is_open_and_that_nobody_here_sends(outbox: Outbox) -> None:
    async def told(settings: Settings) -> dict[str, tuple[Verdict, str]]:
        checks = await database_checks.examine(outbox.db, settings)
        return {check.what: (check.verdict, check.mend) for check in checks if check.what.startswith("notices")}

    assert await told(outbox.settings) == {"notices by webhook": (Verdict.OK, "")}
    unsent = "where no worker is set up to send them: set one up, or: berth notices close webhook"
    assert await told(Settings()) == {"notices by webhook": (Verdict.NOTE, unsent)}
    await outbox.happen()
    await outbox.later(hours=1)
    assert await told(Settings()) == {"notices by webhook": (Verdict.PROBLEM, unsent)}
    async with outbox.db.transaction() as session:
        await notices.close_channel(session, Channel.WEBHOOK)
    assert await told(Settings()) == {}


async def test_private_address_is_refused_with_its_code_until_it_is_allowed(outbox_of: SetUp, backend: Backend) -> None:
    outbox = await outbox_of(webhook=backend.settings(allow_private=False))
    await outbox.happen()
    assert (await outbox.deliver()).retried == 1
    assert [(row["state"], row["error"]) for row in await outbox.rows()] == [("pending", "webhook_private_address")]
    outbox.senders[Channel.WEBHOOK] = WebhookSender(backend.settings())
    await outbox.later(hours=1)
    assert (await outbox.deliver()).sent == 1


async def test_settled_notices_are_forgotten_and_those_to_be_sent_are_not(outbox: Outbox, backend: Backend) -> None:
    await outbox.happen()
    await outbox.deliver()
    await backend.down()
    await outbox.happen()
    await outbox.deliver()
    await outbox.later(hours=24 * 8)
    async with outbox.db.transaction() as session:
        assert await retention.forget_notices(session, datetime.now(UTC) - timedelta(days=7), 100) == 1
    assert [row["state"] for row in await outbox.rows()] == ["pending"]


async def test_settings_without_a_secret_start_no_sender(backend: Backend) -> None:
    with pytest.raises(ValueError, match="WEBHOOK__URL needs WEBHOOK__SECRETS"):
        senders_of(Settings(webhook=backend.settings(secrets=None)))
