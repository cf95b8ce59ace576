"""Whether agents that fall silent are believed. Pure.

One agent that is not heard any more has most likely died. When most of a cluster are silent together, it is most likely
the way from them to us that broke (names, certificates, a network policy): they all live, none that took their place
could come up, and ending them would lose everybody's work for nothing. Kubernetes judges its nodes alike
(`--unhealthy-zone-threshold`, 55 %). Then one at a time is taken for lost: by it is seen when the way is back.

A cluster may have a way of its own, so each is judged by itself. One that is too small for a crowd says nothing by
itself: it is judged by what is heard of all clusters, since they may share what broke.
"""

from collections.abc import Mapping
from typing import NamedTuple

# Fewer are no crowd: two agents of three may well have died on one machine.
_CROWD = 5
_SHARE = 0.55


class Company(NamedTuple):
    """By whom an agent is judged: `cluster`, or all of them (None), with how many are silent of those ever heard."""

    cluster: str | None
    silent: int
    heard: int

    @property
    def of_many(self) -> bool:
        """Whether so many are silent that it is not their own doing."""
        return self.silent >= _CROWD and self.silent > self.heard * _SHARE


def company(cluster: str, by_cluster: Mapping[str, tuple[int, int]]) -> Company:
    """By whom agents of a cluster are judged, where `by_cluster` says how many are silent, of how many ever heard."""
    silent, heard = by_cluster.get(cluster, (0, 0))
    if heard >= _CROWD:
        return Company(cluster, silent, heard)
    return Company(
        None, sum(silent for silent, _ in by_cluster.values()), sum(heard for _, heard in by_cluster.values())
    )
