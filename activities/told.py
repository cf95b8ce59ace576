"""What was said to whom lately: a run takes ten thousand signals, and keeps one that it cannot act upon yet.

It cannot while its runtime does not answer, for one. Kept for a while only: a run that was reset may have lost it.
"""

import asyncio

TELL_AGAIN_SECONDS = 600.0


class Told:
    """Of one process. Note only what was taken: whoever was not reached is to be told by the next look."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, int, str], float] = {}

    def lately(self, agent_id: str, attempt: int, word: str) -> bool:
        self._forget()
        return (agent_id, attempt, word) in self._at

    def note(self, agent_id: str, attempt: int, word: str) -> None:
        self._forget()
        self._at[agent_id, attempt, word] = _now()

    def _forget(self) -> None:
        # The oldest come first: what is told again was forgotten before.
        while self._at and _now() - next(iter(self._at.values())) >= TELL_AGAIN_SECONDS:
            del self._at[next(iter(self._at))]


def _now() -> float:
    return asyncio.get_running_loop().time()
