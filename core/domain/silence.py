"""Whether agents that fall silent are believed: asked of each cluster by itself, as each has a way of its own. Pure.

One agent that is not heard any more has most likely died. When most of a cluster are silent together, it is most likely
the way from them to us that broke (names, certificates, a network policy): they all live, none that took their place
could come up, and ending them would lose everybody's work for nothing. Kubernetes judges its nodes alike
(`--unhealthy-zone-threshold`, 55 %). Then one at a time is taken for lost: by it is seen when the way is back.
"""

# Fewer are no crowd: two agents of three may well have died on one machine.
_CROWD = 5
_SHARE = 0.55


def of_many(silent: int, heard: int) -> bool:
    """Whether so many are silent, of all that were ever heard, that it is not their own doing."""
    return silent >= _CROWD and silent > heard * _SHARE
