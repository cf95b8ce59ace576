"""When the silence of agents is not their own doing."""

import pytest

from core.domain.silence import company


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
    assert company("near", {"near": (silent, heard)}).of_many is many


ALL, HALF, NONE = (100, 100), (50, 100), (0, 100)


@pytest.mark.parametrize(
    ("heard", "many"),
    [
        pytest.param({"far": (6, 6), "near": NONE}, True, id="a crowd by itself"),
        pytest.param({"far": (1, 6), "near": ALL}, False, id="one of a cluster that is heard"),
        pytest.param({"far": (4, 4), "near": NONE}, False, id="a few beside a cluster that is heard"),
        pytest.param({"far": (4, 4), "near": HALF}, False, id="a few beside a cluster of which half is heard"),
        pytest.param({"far": (4, 4), "near": ALL}, True, id="a few beside a cluster that is silent too"),
        pytest.param({"far": (4, 4), "north": (4, 4), "south": (4, 4)}, True, id="a few like all others"),
        pytest.param({"near": ALL}, True, id="not heard yet, beside a cluster that is silent"),
    ],
)
def test_cluster_is_judged_by_itself_and_a_small_one_by_all(heard: dict[str, tuple[int, int]], many: bool) -> None:
    assert company("far", heard).of_many is many
