"""When the silence of agents is not their own doing."""

import pytest

from core.domain.silence import of_many


@pytest.mark.parametrize(
    ("silent", "heard", "many"),
    [
        pytest.param(0, 0, False, id="nobody"),
        pytest.param(1, 1, False, id="the only one"),
        pytest.param(4, 4, False, id="all of a few"),
        pytest.param(5, 5, True, id="all of many"),
        pytest.param(5, 9, True, id="more than half"),
        pytest.param(5, 10, False, id="half"),
        pytest.param(55, 100, False, id="a large part"),
        pytest.param(56, 100, True, id="most"),
    ],
)
def test_silence_of_most_of_many_says_nothing_of_each(silent: int, heard: int, many: bool) -> None:
    assert of_many(silent, heard) is many
