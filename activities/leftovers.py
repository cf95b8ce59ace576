"""What lives have left: living rows that no workflow carries any more, objects that no row stands for."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from activities.contracts import Final, Usage
from activities.lives import LifeActivities, life_of
from activities.ports import Owner, Signals
from activities.sweeps import Swept, sweep
from core.db.engine import Db
from core.db.repositories import agents, upkeep
from core.db.repositories.upkeep import LivingRow
from core.domain.lifecycle import WAITING, AgentState, EndReason
from core.domain.value import Value
from core.errors import RuntimeFault
from core.runtime.base import AgentRuntime, CountableRuntime, Observation, Present

log = structlog.get_logger()


class Look(Value):
    """What Temporal's list and, after it, the database said at the start of a look."""

    at: datetime
    # What is younger may belong to a step that is just under way.
    settle: timedelta
    rows: dict[str, LivingRow]
    owners: dict[str, str | None]


class Leftovers:
    """Each half works for so many seconds at most: what will not go must keep neither the others nor the look."""

    def __init__(
        self, db: Db, signals: Signals, runtimes: Mapping[str, AgentRuntime], lives: LifeActivities, seconds: float
    ) -> None:
        self._db = db
        self._signals = signals
        self._runtimes = runtimes
        self._lives = lives
        self._seconds = seconds

    # ---- rows without a workflow ------------------------------------------------------------------------------------

    async def end_rows(self, look: Look) -> Swept:
        suspects = [row for row in look.rows.values() if look.owners.get(row.workflow_id) != row.agent_id]
        old_enough = [row for row in suspects if look.at - row.changed_at > look.settle]
        return await sweep([partial(self._end_row, row, look) for row in old_enough], self._seconds)

    async def _end_row(self, row: LivingRow, look: Look) -> bool | None:
        if not ownerless(row, await self._signals.owner(row.workflow_id), look.rows):
            return None
        log.warning("reaper.row", agent_id=row.agent_id, state=row.state.value)
        return await self._end(row)

    async def _end(self, row: LivingRow) -> bool:
        # For one that waits nothing is made, and an earlier attempt of it was gone before it came into the line.
        used = Usage() if await self._waits(row) else await self._removed(row)
        if used is None:
            return False
        ending = Final(life=life_of(row), state=AgentState.TERMINATED, reason=EndReason.WORKFLOW_GONE, usage=used)
        return (await self._lives.finish(ending)).applied

    async def _waits(self, row: LivingRow) -> bool:
        """Whether it does so now that nobody was seen to carry it: until then it may have been granted and made."""
        if row.state not in WAITING:
            return False
        async with self._db.transaction() as session:
            now = await agents.get(session, row.agent_id)
        return now is not None and now.waiting

    async def _removed(self, row: LivingRow) -> Usage | None:
        """What the attempt used; None: it is there still. The next look tries again, and until then it has its slot."""
        runtime = self._runtimes.get(row.runtime)
        if runtime is None:
            log.warning("reaper.blocked", agent_id=row.agent_id, code="unknown_runtime")
            return None
        try:
            used = await runtime.delete(row.agent_id, row.attempt)
        except RuntimeFault as error:
            log.warning("reaper.blocked", agent_id=row.agent_id, code=error.error_code)
            return None
        return Usage(cpu_seconds=used.cpu_seconds, peak_memory_bytes=used.peak_memory_bytes)

    # ---- objects without a row --------------------------------------------------------------------------------------

    async def remove_objects(self, look: Look) -> tuple[Swept, Swept]:
        """The objects that went, and the runs that were ended because the database has fallen behind them."""
        found = await self._found(self._runtimes)
        # Read after all of them were seen: a row that is not there now will not come any more.
        living = await self._living({seen.agent_id for _, seen in found})
        settled = datetime.now(UTC) - look.settle
        strays = await self._still([(name, seen) for name, seen in found if _is_stray(seen, living, settled)])
        # An attempt is written before it is made, so its row was taken back since: a backup was restored.
        outrun = {seen.agent_id for _, seen in found if seen.attempt > living.get(seen.agent_id, seen.attempt)}
        behind = [row for row in look.rows.values() if row.agent_id in outrun]
        ended = await sweep([partial(self._give_up, row) for row in behind], self._seconds)
        return await sweep([partial(self._remove, name, seen) for name, seen in strays], self._seconds), ended

    async def _still(self, strays: Sequence[tuple[str, Present]]) -> list[tuple[str, Present]]:
        """Those that have outlived their row: a life may have ended in order between the list and the rows."""
        again = await self._found({name for name, _ in strays})
        there = {(name, seen.agent_id, seen.attempt) for name, seen in again}
        return [(name, seen) for name, seen in strays if (name, seen.agent_id, seen.attempt) in there]

    async def _give_up(self, row: LivingRow) -> bool | None:
        """End the run of a row that it can write no more; the next look finds the row without a workflow."""
        owner = await self._signals.owner(row.workflow_id)
        if owner is None or owner.agent_id != row.agent_id:
            return None
        run = {"workflow_id": row.workflow_id, "run_id": owner.run_id}
        log.warning("reaper.workflow", agent_id=row.agent_id, row="behind", attempt=row.attempt, **run)
        why = f"the reaper: the database knows an earlier attempt of agent {row.agent_id} than there is"
        return await self._signals.end_run(row.workflow_id, owner.run_id, why) or None

    async def _found(self, names: Collection[str]) -> list[tuple[str, Present]]:
        """All that these runtimes have, each with the name of its own."""
        listed = await asyncio.gather(*(self._list(name) for name in names))
        return [(name, seen) for name, all_seen in zip(names, listed, strict=True) for seen in all_seen]

    async def _list(self, name: str) -> Sequence[Present]:
        runtime = self._runtimes[name]
        try:
            async with asyncio.timeout(self._seconds):
                if isinstance(runtime, CountableRuntime):
                    return await runtime.present()
                return [_present(seen) for seen in await runtime.list()]
        except (RuntimeFault, TimeoutError) as error:
            code = error.error_code if isinstance(error, RuntimeFault) else "timeout"
            log.warning("reaper.runtime_silent", runtime=name, code=code)
            return ()

    async def _remove(self, name: str, seen: Present) -> bool:
        ids = {"agent_id": seen.agent_id, "attempt": seen.attempt, "user_id": seen.user_id}
        log.warning("reaper.object", runtime=name, **ids)
        try:
            await self._runtimes[name].delete(seen.agent_id, seen.attempt)
        except RuntimeFault as error:
            log.warning("reaper.object_stays", runtime=name, code=error.error_code, **ids)
            return False
        return True

    async def _living(self, agent_ids: Collection[str]) -> dict[str, int]:
        if not agent_ids:
            return {}
        async with self._db.transaction() as session:
            return await upkeep.living_attempts(session, agent_ids)


def ownerless(row: LivingRow, owner: Owner | None, rows: Mapping[str, LivingRow]) -> bool:
    """Whether nobody carries a living row. `owner` is whose its workflow is now, `rows` all that live, by agent."""
    if owner is None:
        return True
    # A workflow that is just handing over to this one, or clearing up behind it, is not there yet.
    if owner.deciding or owner.agent_id == row.agent_id:
        return False
    # One that waits behind its ending predecessor belongs to the workflow that still runs that one.
    predecessor = rows.get(owner.agent_id or "")
    return not (
        row.state in WAITING
        and predecessor is not None
        and predecessor.state is AgentState.DRAINING
        and predecessor.workflow_id == row.workflow_id
    )


def _is_stray(seen: Present, living: Mapping[str, int], settled: datetime) -> bool:
    """Whether no living row stands for this attempt, and it is not of a step just under way."""
    if seen.created_at is not None and seen.created_at > settled:
        return False
    attempt = living.get(seen.agent_id)
    return attempt is None or attempt > seen.attempt


def _present(seen: Observation) -> Present:
    return Present(agent_id=seen.agent_id, attempt=seen.attempt, created_at=seen.created_at, user_id=seen.user_id)
