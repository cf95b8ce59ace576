"""After a failure: how often, how long after, and when no more."""

from hypothesis import given
from hypothesis import strategies as st

from core.domain.recovery import MAX_RESTARTS, ORDERED, FailureKind, GiveUp, Restart, decide, spends

kinds = st.sampled_from(FailureKind)


def test_pauses_are_two_four_and_eight_seconds_then_it_is_over() -> None:
    pauses = [decide(FailureKind.CRASH, restarts, 2) for restarts in range(4)]
    assert pauses == [
        Restart(after_seconds=2),
        Restart(after_seconds=4),
        Restart(after_seconds=8),
        GiveUp(reason="crash"),
    ]


def test_what_spends_no_restart_ends_nobody_who_has_none_left() -> None:
    assert decide(FailureKind.HOST_LOST, MAX_RESTARTS, 2, spent=False) == Restart(after_seconds=16)
    assert decide(FailureKind.HOST_LOST, MAX_RESTARTS, 2) == GiveUp(reason="host_lost")


@given(st.sampled_from(sorted(ORDERED)), st.integers(0, 100))
def test_what_people_order_is_no_failure(kind: FailureKind, restarts: int) -> None:
    assert decide(kind, restarts, 2) == Restart(after_seconds=0)
    assert not spends(kind, was_usable=True)


def test_agent_that_no_other_machine_can_run_may_go_back_to_the_one_it_came_from() -> None:
    assert decide(FailureKind.UNSCHEDULABLE, 0, 2, held_away=True) == Restart(after_seconds=2)
    assert decide(FailureKind.UNSCHEDULABLE, MAX_RESTARTS, 2, held_away=True) == GiveUp(reason="unschedulable")
    assert decide(FailureKind.IMAGE_PULL, 0, 2, held_away=True) == GiveUp(reason="image_pull")


@given(st.integers(0, 100))
def test_what_cannot_start_is_not_tried_again(restarts: int) -> None:
    assert decide(FailureKind.CANNOT_START, restarts, 2) == GiveUp(reason="cannot_start")


@given(kinds.filter(lambda kind: kind not in ORDERED), st.floats(0, 60))
def test_no_failure_is_tried_again_for_ever(kind: FailureKind, backoff: float) -> None:
    restarts = 0
    while isinstance(decide(kind, restarts, backoff), Restart):
        restarts += 1
        assert restarts <= MAX_RESTARTS
    assert decide(kind, restarts, backoff) == GiveUp(reason=kind.value)


def test_a_lost_host_spends_a_restart_only_of_an_agent_that_never_came_up() -> None:
    assert spends(FailureKind.HOST_LOST, was_usable=False)
    assert not spends(FailureKind.HOST_LOST, was_usable=True)
    assert spends(FailureKind.CRASH, was_usable=True)
