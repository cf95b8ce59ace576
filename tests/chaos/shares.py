"""The kill suite in parts that run side by side: `make chaos SHARE=2/3`. One for each core does most."""

import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

# `number/of`; none is all of it.
SHARE = os.environ.get("CHAOS_SHARE") or "1/1"
_Item = TypeVar("_Item", bound=Hashable)


def of_share(items: Sequence[tuple[_Item, str]], share: str) -> set[_Item]:
    """Those that are this share's: each is one share's alone, and the shares are about as long as each other.

    `items` are named with what they have in common and must not be done in two places: a stack, a cluster. Raises
    ValueError with one sentence for a share that makes no sense.
    """
    number, of = _numbers(share)
    together: dict[str, list[_Item]] = defaultdict(list)
    for item, common in items:
        together[common].append(item)
    shares: list[list[_Item]] = [[] for _ in range(of)]
    for group in sorted(together.values(), key=len, reverse=True):
        min(shares, key=len).extend(group)
    return set(shares[number - 1])


def report_file(name: str) -> Path:
    """Where the report of this share goes, so that those beside it keep theirs."""
    which = "" if SHARE == "1/1" else f"-{SHARE.replace('/', '-of-')}"
    return Path("build") / f"{name}{which}.md"


def _numbers(share: str) -> tuple[int, int]:
    try:
        number, of = map(int, share.split("/"))
    except ValueError:
        number, of = 0, 0
    if not 1 <= number <= of:
        raise ValueError(f"a share is like 2/3, not {share}")
    return number, of
