"""Messages for Berth that are not acknowledged yet: numbered, bounded, sent again after a break."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent_image.agent.journal import log

MAX_MESSAGES = 512
MAX_BYTES = 16 << 20


@dataclass
class _Kept:
    seq: int
    body: dict[str, Any]
    size: int


class Outbox:
    """Keeps every message until its `seq` is acknowledged. When it is full the oldest goes, and the log says so."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._bytes = 0
        self.next_seq = 1
        self._changed = asyncio.Event()

    def add(self, body: dict[str, Any], size: int) -> int:
        """Keep `body` (without its seq) and return the number it got."""
        seq = self.next_seq
        self.next_seq += 1
        self._kept.append(_Kept(seq, {**body, "at": datetime.now(UTC).isoformat()}, size))
        self._bytes += size
        while len(self._kept) > MAX_MESSAGES or self._bytes > MAX_BYTES:
            lost = self._drop()
            log.error("outbox.full", lost=lost.seq, kind=lost.body.get("type"))
        self._touch()
        return seq

    def acknowledge(self, seq: int) -> None:
        """Everything up to `seq` is durable over there."""
        while self._kept and self._kept[0].seq <= seq:
            self._drop()
        self._touch()

    def resume(self, seq: int) -> None:
        """The first acknowledgement on a new socket.

        When Berth knows higher numbers than we ever gave (this process is not the first of its attempt), what waits is
        numbered anew above them, else it would be taken for repetition.
        """
        if seq >= self.next_seq:
            for number, kept in enumerate(self._kept, seq + 1):
                kept.seq = number
            self.next_seq = seq + 1 + len(self._kept)
        self.acknowledge(seq)

    def after(self, seq: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """What is kept above `seq`, oldest first."""
        for kept in list(self._kept):
            if kept.seq > seq:
                yield kept.seq, {**kept.body, "seq": kept.seq}

    def holds_result(self, command_id: str) -> bool:
        """Is the result of this command still on its way?"""
        return any(
            kept.body["type"] == "command_result" and kept.body["commandId"] == command_id for kept in self._kept
        )

    def empty(self) -> bool:
        return not self._kept

    async def changed(self) -> None:
        await self._changed.wait()

    def _drop(self) -> _Kept:
        gone = self._kept.popleft()
        self._bytes -= gone.size
        return gone

    def _touch(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
