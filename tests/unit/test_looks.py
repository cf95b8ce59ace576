"""How often a leaving agent is looked at."""

from itertools import islice

import pytest

from activities.runtime import between_looks


def test_leaving_agent_is_looked_at_often_at_first_and_once_a_second_in_the_end() -> None:
    pauses = list(islice(between_looks(), 40))
    assert pauses[0] == pytest.approx(0.1)
    assert sum(pauses[:4]) == pytest.approx(1.0)
    assert pauses == sorted(pauses)
    assert set(pauses[10:]) == {1.0}
