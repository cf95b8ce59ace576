"""Browser profiles that nobody has used for long, cleared away wherever agents of ours run."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import timedelta

import structlog

from core.db.engine import Db
from core.db.repositories import pressure
from core.errors import RuntimeFault
from core.runtime.base import AgentRuntime, Owner, PrunableRuntime

log = structlog.get_logger()


class Profiles:
    def __init__(self, db: Db, runtimes: Mapping[str, AgentRuntime]) -> None:
        self._db = db
        self._runtimes = runtimes

    async def prune(self, unused_for: timedelta, of: Collection[str], *, seconds: float) -> int:
        """Those of the runtimes `of` that keep any on disks of their own; never one whose agent lives or waits.

        Each has so many seconds; what cannot be cleared away now is left to the next time. Returns how many went.
        """
        pruning = {name: self._runtimes[name] for name in sorted(of) if name in self._runtimes}
        able = {name: runtime for name, runtime in pruning.items() if isinstance(runtime, PrunableRuntime)}
        if not able:
            return 0
        async with self._db.transaction() as session:
            owners = await pressure.owners_of_living(session)
        keep = [Owner(user_id=user_id, project_id=project_id) for user_id, project_id in owners]
        gone = 0
        for name, runtime in able.items():
            try:
                async with asyncio.timeout(seconds):
                    gone += (await runtime.prune(unused_for, keep)).profiles
            except (RuntimeFault, TimeoutError) as error:
                code = error.error_code if isinstance(error, RuntimeFault) else "timeout"
                log.warning("profiles.not_pruned", runtime=name, code=code)
        return gone
