"""Messages that wait for an acknowledgement: numbers, resumption, limits."""

from typing import Any

from agent_image.agent.outbox import MAX_MESSAGES, Outbox


def _message(name: str) -> dict[str, Any]:
    return {"type": "agent_status", "status": name}


def _waiting(outbox: Outbox, after: int = 0) -> list[tuple[int, str]]:
    return [(seq, body["status"]) for seq, body in outbox.after(after)]


def test_message_stays_until_it_is_acknowledged() -> None:
    outbox = Outbox()
    for name in "abc":
        outbox.add(_message(name), 100)
    outbox.acknowledge(2)
    assert _waiting(outbox) == [(3, "c")]
    outbox.acknowledge(1)
    assert _waiting(outbox) == [(3, "c")]
    outbox.acknowledge(3)
    assert outbox.empty()


def test_resumption_sends_what_was_not_durable_with_its_old_number() -> None:
    outbox = Outbox()
    for name in "abc":
        outbox.add(_message(name), 100)
    outbox.resume(1)
    assert _waiting(outbox, 1) == [(2, "b"), (3, "c")]


def test_fresh_process_of_an_attempt_goes_on_above_the_old_numbers() -> None:
    outbox = Outbox()
    outbox.add(_message("ready"), 100)
    outbox.resume(7)
    assert _waiting(outbox, 7) == [(8, "ready")]
    assert outbox.add(_message("next"), 100) == 9


def test_full_outbox_lets_the_oldest_go() -> None:
    outbox = Outbox()
    for number in range(MAX_MESSAGES + 10):
        outbox.add(_message(str(number)), 100)
    assert len(_waiting(outbox)) == MAX_MESSAGES
    assert _waiting(outbox)[0] == (11, "10")
    outbox.add(_message("huge"), 16 << 20)
    assert _waiting(outbox) == [(MAX_MESSAGES + 11, "huge")]
