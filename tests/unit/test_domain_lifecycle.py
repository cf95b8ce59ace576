"""The table of states: nothing leads out of an end, and an end can be reached from everywhere."""

from hypothesis import given
from hypothesis import strategies as st

from core.domain.lifecycle import CURRENT, FINAL, HOLDING, LIVING, WAITING, AgentState, legal

S = AgentState


def onward(state: AgentState) -> set[AgentState]:
    return {after for after in AgentState if legal(state, after)}


def test_edges_are_those_of_the_contract() -> None:
    assert {state: onward(state) for state in AgentState if onward(state)} == {
        S.REQUESTED: {S.QUEUED},
        S.QUEUED: {S.STARTING, S.CANCELLED},
        S.STARTING: {S.RUNNING, S.RESTARTING, S.FAILED, S.DRAINING},
        S.RUNNING: {S.DRAINING, S.RESTARTING, S.FAILED},
        S.RESTARTING: {S.STARTING, S.QUEUED, S.FAILED, S.DRAINING},
        S.DRAINING: {S.TERMINATED, S.RUNNING},
    }


def test_terminated_cancelled_and_failed_are_final_and_nothing_else_is() -> None:
    assert {S.TERMINATED, S.CANCELLED, S.FAILED} == FINAL
    assert frozenset(AgentState) == LIVING | FINAL


def test_every_state_reaches_an_end() -> None:
    ends = set(FINAL)
    for _ in AgentState:
        ends |= {state for state in AgentState if onward(state) & ends}
    assert ends == set(AgentState)


def test_every_life_that_holds_a_slot_can_be_drained_within_one_step() -> None:
    for state in HOLDING - {S.DRAINING}:
        assert legal(state, S.DRAINING), state


def test_sets_of_states_part_the_living() -> None:
    assert WAITING | HOLDING == LIVING
    assert not WAITING & HOLDING
    assert {S.DRAINING} == LIVING - CURRENT


@given(st.lists(st.sampled_from(AgentState), max_size=40))
def test_walk_along_legal_edges_never_comes_back_from_an_end(wishes: list[AgentState]) -> None:
    state, ended = S.REQUESTED, False
    for wish in wishes:
        if legal(state, wish):
            assert not ended
            state = wish
            ended = state in FINAL
