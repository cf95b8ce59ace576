"""Names in a cluster are legal, stable and never of two things, whatever an id holds."""

import re

from hypothesis import assume, example, given
from hypothesis import strategies as st

from k8s.names import attempt_name, label_value, profile_name

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")
_AWKWARD = st.sampled_from(
    ["/../", "ü" * 300, "a--b", "-a-", "A", "a", "a_b", "a.b", "x" * 300, "..", "a\n", "\u2177", "\u0661"]
)
IDS = st.one_of(_AWKWARD, st.text(min_size=1, max_size=300), st.text("ab-_./A", min_size=1, max_size=70))
ATTEMPTS = st.integers(min_value=1, max_value=2**31)


@given(agent_id=IDS, attempt=ATTEMPTS)
def test_the_name_of_any_attempt_is_a_dns_label(agent_id: str, attempt: int) -> None:
    name = attempt_name(agent_id, attempt)
    assert _NAME.fullmatch(name)
    assert name.endswith(f"-{attempt}")


@given(one=st.tuples(IDS, ATTEMPTS), other=st.tuples(IDS, ATTEMPTS))
@example(one=("a-1", 1), other=("a", 1))
@example(one=("a", 11), other=("a-1", 1))
@example(one=("A", 1), other=("a", 1))
def test_no_two_attempts_share_a_name(one: tuple[str, int], other: tuple[str, int]) -> None:
    assume(one != other)
    assert attempt_name(*one) != attempt_name(*other)


@given(agent_id=IDS, attempt=ATTEMPTS)
def test_a_name_that_was_made_is_not_the_name_of_an_agent_called_so(agent_id: str, attempt: int) -> None:
    made = attempt_name(agent_id, attempt).removeprefix("agent-").removesuffix(f"-{attempt}")
    assume(made != agent_id)
    assert attempt_name(made, attempt) != attempt_name(agent_id, attempt)


def test_an_agent_of_berth_is_named_as_it_is() -> None:
    agent_id = "ag-0190a5b4c3d27e8f9a0b1c2d3e4f5061"
    assert attempt_name(agent_id, 3) == f"agent-{agent_id}-3"


@given(value=IDS)
def test_any_id_has_a_legal_label_and_a_label_has_itself(value: str) -> None:
    label = label_value(value)
    assert len(label) <= 63
    assert _LABEL.fullmatch(label)
    assert label_value(value) == label


@given(one=IDS, other=IDS)
def test_no_two_ids_share_a_label(one: str, other: str) -> None:
    assume(one != other)
    assert label_value(one) != label_value(other)
    assert label_value(label_value(one)) != label_value(other) or label_value(one) == other


def test_a_label_keeps_what_can_be_read() -> None:
    assert label_value("ann@shop.example").startswith("ann-shop.example--")
    assert label_value("ann.example_1") == "ann.example_1"


@given(one=st.tuples(IDS, IDS), other=st.tuples(IDS, IDS))
@example(one=("a", "bc"), other=("ab", "c"))
def test_no_two_projects_share_a_profile(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)
    assert profile_name("berth", *one) != profile_name("berth", *other)
    assert profile_name("berth", *one) != profile_name("second", *one)
    assert _NAME.fullmatch(profile_name("berth", *one))
