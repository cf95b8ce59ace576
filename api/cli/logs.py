"""An agent's log, followed until the agent ends, across the ends of its stream."""

import time
from collections.abc import Iterable, Iterator

from api.cli import show
from api.cli.client import Berth, segment
from api.cli.faults import Fault
from api.cli.life import find

_PAUSE_SECONDS = 1.0
_MOST_BYTES = 32 << 20
# Berth ends a followed log after 15 minutes; one that is silent for longer has nobody at its other end.
SILENT_SECONDS = 16 * 60.0


def followed(berth: Berth, agent_id: str) -> Iterator[bytes]:
    """The log as it grows, each piece once. Raises `Unreachable` when it breaks, `Fault` when it is too long.

    A stream ends with its attempt, or after a quarter of an hour; the agent may go on, and the next stream begins with
    what was there before.
    """
    printed = _Printed()
    while True:
        # Asked before: of one that is over, the log that is read then is all of it.
        over = find(berth, agent_id)["endedAt"] is not None
        yield from printed.beyond(berth.stream(log_path(agent_id), {"follow": "true"}, silent_seconds=SILENT_SECONDS))
        if over:
            return
        if printed.too_long:
            raise Fault(
                "the log ended here although the agent goes on, and is too long to be followed further",
                f"all of it: berth agents logs {agent_id}",
            )
        time.sleep(_PAUSE_SECONDS)


def log_path(agent_id: str) -> str:
    return f"/api/agents/{segment(agent_id)}/logs"


class _Printed:
    """What was printed of a log: whoever reads the log again has to begin at its start."""

    def __init__(self) -> None:
        self._kept = bytearray()

    @property
    def too_long(self) -> bool:
        return len(self._kept) > _MOST_BYTES

    def beyond(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """What is new in `chunks`; where they are not what was there before, all from there on.

        They are another log when what is old was dropped from it, or its attempt is gone with all it wrote.
        """
        at = 0
        for chunk in chunks:
            known = bytes(self._kept[at : at + len(chunk)])
            fresh = chunk[len(known) :]
            if not chunk.startswith(known):
                show.note("berth: the log is not the one of before; this is all it has from where it differs")
                del self._kept[at:]
                fresh = chunk
            at += len(chunk)
            if not self.too_long:
                self._kept += fresh
            if fresh:
                yield fresh
