"""How many bytes each agent has brought lately, over all its sockets of this process, also those that are closed."""

from api.live.limits import TokenBucket

# Reading a mebibyte takes this process 10 ms or more, in which it does nothing for others. What an agent has kept for
# Berth over a break, 16 MiB at most, comes at once.
_BYTES_A_SECOND, _BYTES_AT_ONCE = 2.0 * (1 << 20), 8.0 * (1 << 20)
_KNOWN = 1000


class Volumes:
    def __init__(self, rate: float = _BYTES_A_SECOND, burst: float = _BYTES_AT_ONCE) -> None:
        self._rate, self._burst = rate, burst
        self._of: dict[str, TokenBucket] = {}

    def of(self, holder: str) -> TokenBucket:
        if len(self._of) >= _KNOWN:
            # A full one says no more than none.
            self._of = {each: bucket for each, bucket in self._of.items() if not bucket.full()}
        return self._of.setdefault(holder, TokenBucket(self._rate, self._burst))
