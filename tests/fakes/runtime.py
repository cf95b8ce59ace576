"""As much of a runtime as the API itself talks to: logs and profiles, from a shelf."""

import asyncio
from collections.abc import AsyncIterator

from core.errors import RuntimeRetryable


class ShelfRuntime:
    name = "memory"

    def __init__(self) -> None:
        self.lines: dict[str, list[bytes]] = {}
        self.more = asyncio.Event()
        self.waiting = asyncio.Event()
        self.forgotten: list[tuple[str, str]] = []
        self.asked = False
        self.in_use = False
        self.fails: Exception | None = None
        self.breaks: Exception | None = None
        self.stalls = False

    async def logs(self, agent_id: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        if self.fails:
            raise self.fails
        for line in self.lines.get(agent_id, []):
            yield line
        if self.breaks:
            raise self.breaks
        if follow or self.stalls:
            self.waiting.set()
            await self.more.wait()
            yield b"and more\n"

    async def delete_profile(self, user_id: str, project_id: str) -> None:
        self.asked = True
        if self.fails:
            raise self.fails
        if self.in_use:
            raise RuntimeRetryable("in use")
        self.forgotten.append((user_id, project_id))
