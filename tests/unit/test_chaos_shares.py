"""The kill suite in parts that run side by side."""

import pytest

from tests.chaos.shares import of_share

ITEMS = [(f"test {group} {number}", group) for group, size in (("a", 5), ("b", 2), ("c", 2)) for number in range(size)]


def test_each_test_is_one_shares_alone_and_what_shares_a_stack_is_not_parted() -> None:
    first, second = of_share(ITEMS, "1/2"), of_share(ITEMS, "2/2")
    assert first | second == {item for item, _ in ITEMS}
    assert not first & second
    assert {group for item, group in ITEMS if item in first} == {"a"}


@pytest.mark.parametrize("share", ["0/2", "3/2", "half", "2"])
def test_share_that_makes_no_sense_is_told(share: str) -> None:
    with pytest.raises(ValueError, match=f"a share is like 2/3, not {share}"):
        of_share(ITEMS, share)
