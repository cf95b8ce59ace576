"""Agents that do not leave."""

import asyncio

from core.runtime.base import Usage
from core.runtime.memory import MemoryRuntime


class Stubborn:
    """Agents of `runtime` that take as long to leave as they are given; gone at once when given no time."""

    def __init__(self, runtime: MemoryRuntime) -> None:
        self.asked, self._gone = asyncio.Event(), asyncio.Event()
        self._delete = runtime.delete
        runtime.delete = self.delete  # type: ignore[method-assign]

    async def delete(self, agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        self.asked.set()
        if grace_seconds > 0:
            await self._gone.wait()  # another delete was less patient
        usage = await self._delete(agent_id, attempt, 0)
        self._gone.set()
        return usage
