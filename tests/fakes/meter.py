"""A meter that keeps what it was told, for tests to ask."""

from collections import defaultdict


class RememberingMeter:
    def __init__(self) -> None:
        self._counts: defaultdict[str, defaultdict[frozenset[tuple[str, str]], int]] = defaultdict(
            lambda: defaultdict(int)
        )
        self._values: defaultdict[tuple[str, frozenset[tuple[str, str]]], list[float]] = defaultdict(list)

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        self._counts[name][frozenset(labels.items())] += amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._values[name, frozenset(labels.items())].append(value)

    def counted(self, name: str, *order: str) -> dict[tuple[str, ...], int]:
        """Of one counter what is not 0, by the values of its labels in `order`."""
        return {labels: n for labels, n in self._by(name, *order).items() if n}

    def known(self, name: str, *order: str) -> set[tuple[str, ...]]:
        """The labels of one counter that were told of, with 0 or more."""
        return set(self._by(name, *order))

    def _by(self, name: str, *order: str) -> dict[tuple[str, ...], int]:
        return {tuple(dict(labels)[label] for label in order): n for labels, n in self._counts[name].items()}

    def values(self, name: str, **labels: str) -> list[float]:
        return self._values[name, frozenset(labels.items())]
