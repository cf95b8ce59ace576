"""Which events are told outside, how often what failed is tried, and words that nobody can bend."""

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP as WIRE
from itertools import pairwise
from typing import Any

import pytest

from core.db.repositories import credits
from core.db.repositories.events import Fact
from core.domain.events import EventKind
from core.domain.letters import compose
from core.domain.lifecycle import AgentState
from core.domain.notices import Happened, Mail, Patience, pause, wanted
from core.domain.webhooks import MOST_BYTES, body_of, keys_of
from tests.fixtures.receivers import OTHER_SECRET, SECRET

DAY = Patience()


def told(*kinds: EventKind, reason: str | None = "maintenance", state: AgentState = AgentState.DRAINING) -> list[Fact]:
    return [Fact(kind=kind, state=state, reason=reason) for kind in kinds]


def mails(facts: list[Fact]) -> dict[EventKind, Mail]:
    return {fact.kind: want.email for fact, want in zip(facts, wanted(facts), strict=True) if want.email is not None}


def test_backend_is_told_of_every_state_and_of_no_command() -> None:
    stored = [kind for kind in EventKind if kind is not EventKind.POSITION_CHANGED]
    silent = [kind for kind in stored if not wanted(told(kind))[0].webhook]
    assert silent == [EventKind.COMMAND_EXECUTED]


def test_only_what_is_critical_leads_to_a_letter() -> None:
    alone = {kind for kind in EventKind if mails(told(kind))}
    assert alone == {EventKind.FAILED, EventKind.EVICTED}
    assert mails(told(EventKind.FAILED)) == {EventKind.FAILED: Mail.ALWAYS}


def test_whoever_has_to_make_room_gets_one_letter_for_warning_drain_and_eviction() -> None:
    leaving = told(EventKind.WARNING, EventKind.DRAINING, EventKind.EVICTED, reason="resource_pressure")
    assert mails(leaving) == {EventKind.EVICTED: Mail.ALWAYS}


def test_grace_is_told_to_whoever_is_away_once_and_not_to_whoever_asked_for_it() -> None:
    assert mails(told(EventKind.WARNING, EventKind.DRAINING)) == {EventKind.WARNING: Mail.AWAY}
    assert mails(told(EventKind.WARNING)) == {}  # another word about the same grace
    assert mails(told(EventKind.DRAINING)) == {}  # no grace, so nothing to be done any more
    assert mails(told(EventKind.WARNING, EventKind.DRAINING, reason="user_requested")) == {}
    moving = told(EventKind.WARNING, reason="migration", state=AgentState.RUNNING)
    assert mails(moving) == {}


def test_pauses_double_up_to_an_hour_and_a_day_is_enough_for_two_dozen() -> None:
    waits = [pause(tries, DAY, 0) for tries in range(1, 40)]
    assert waits[:4] == [10, 20, 40, 80]
    assert all(before <= after for before, after in pairwise(waits))
    assert waits[-1] == pause(10_000, DAY, 0) == 3600
    elapsed, tries = 0.0, 0
    while elapsed < 24 * 3600:
        elapsed, tries = elapsed + waits[min(tries, 38)], tries + 1
    assert 24 <= tries <= 40


def test_what_failed_together_does_not_come_back_together() -> None:
    assert pause(5, DAY, 1) == 0.75 * pause(5, DAY, 0)


def test_receiver_that_asks_for_peace_gets_it_within_an_hour() -> None:
    assert pause(1, DAY, 0.5, asked=120) == 120
    assert pause(1, DAY, 0.5, asked=1e9) == 3600
    assert pause(9, DAY, 0, asked=1) == 2560


def happened(kind: EventKind = EventKind.FAILED, **fields: Any) -> Happened:
    usual = {
        "at": datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
        "user_id": "ann",
        "project_id": "shop",
        "agent_id": "ag-1",
        "seq": 7,
        "cursor": 12,
        "state": AgentState.FAILED,
        "reason": "crash",
        "detail": {"detail": "exit code 139"},
    }
    return Happened.model_validate({"kind": kind, **usual, **fields})


def test_letter_says_what_happened_what_is_lost_and_where_to_start_again() -> None:
    letter = compose(happened(), "https://berth.example")
    assert letter.subject == "Your agent in shop failed"
    for said in (
        "failed at 09:30 UTC on 1 March 2026",
        "Its browser or desktop crashed.",
        "exit code 139",
        "What was under way in it is lost. Cookies and logins",
        "https://berth.example/#/agents/ag-1",
    ):
        assert said in letter.text


def test_letter_of_a_grace_says_until_when_and_whether_it_may_be_kept() -> None:
    detail = {"deadlineAt": "2026-03-01T11:32:00+02:00", "keepable": True}
    kept = compose(happened(EventKind.WARNING, reason="inactivity", detail=detail), "https://berth.example").text
    assert "stops at 09:32 UTC on 1 March 2026, because nobody has used it for a while" in kept
    assert "Keep it, until then" in kept
    firm = {**detail, "keepable": False}
    gone = compose(happened(EventKind.WARNING, reason="maintenance", detail=firm), "https://berth.example").text
    assert "Keep it" not in gone


def test_letter_of_an_eviction_promises_the_place_that_is_owed_for_as_long_as_it_is_and_no_better_one() -> None:
    letter = compose(happened(EventKind.EVICTED, reason="resource_pressure"), "https://berth.example")
    assert "within half an hour of 09:30 UTC on 1 March 2026" in letter.text
    assert timedelta(minutes=30) == credits.LASTS
    assert "behind those of a higher tier. That holds for one start" in letter.text


@pytest.mark.parametrize("evil", ["shop\r\nBcc: all@example.org", "shop\u2028Bcc: x", "shop\x0b\x0cx", "s\x85t"])
def test_name_of_a_project_adds_no_header_and_no_line(evil: str) -> None:
    letter = compose(happened(project_id=evil, detail={"detail": evil}), "https://berth.example")
    message = EmailMessage(policy=WIRE)
    message["Subject"] = letter.subject
    message.set_content(letter.text)
    assert message.keys() == ["Subject", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
    assert len(letter.subject.splitlines()) == 1
    assert not [line for line in letter.text.splitlines() if line.startswith("Bcc")]


def test_link_of_a_letter_cannot_be_bent_by_an_id() -> None:
    assert "/#/agents/a%2F..%2F%3Fb%0A" in compose(happened(agent_id="a/../?b\n"), "https://berth.example").text


def test_body_of_a_webhook_is_the_same_at_every_try_and_never_longer_than_64_kib() -> None:
    assert body_of(happened()) == body_of(happened())
    long = happened(detail={"detail": "é" * MOST_BYTES})
    assert len(body_of(long)) < 1000
    assert b'"detail":{"truncated":true}' in body_of(long)


@pytest.mark.parametrize("secret", ["", " , ", "whsec_", "whsec_c2hvcnQ=", "whsec_???", "a" * 40, f"{SECRET},short"])
def test_secret_that_is_none_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(ValueError, match="WEBHOOK__SECRETS") as refused:
        keys_of(secret)
    assert "c2hvcnQ" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_two_secrets_are_two_keys() -> None:
    assert len(keys_of(f"{SECRET}, {OTHER_SECRET}")) == 2
