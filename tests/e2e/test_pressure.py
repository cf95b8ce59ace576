"""Memory that really runs short here: who is away leaves, who is there lives on, and the door opens again."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.fixtures.stack import LocalStack, Person, eventually, local_stack

pytestmark = [pytest.mark.needs("agent"), pytest.mark.timeout(300)]
# Holds as much memory as it is told, and really: every byte is written.
_HOG = "import sys; held = b'x' * int(sys.argv[1]); print('holds', flush=True); sys.stdin.read()"
# Room for the stack and its agents, and for whatever else happens on this machine.
_ABOVE = max(15.0, 100 * (3 << 30) / psutil.virtual_memory().total)


@asynccontextmanager
async def hog(percent: float) -> AsyncIterator[None]:
    """Memory of this machine in use beyond `percent` until the block ends."""
    memory = psutil.virtual_memory()
    size = int((percent - memory.percent) / 100 * memory.total)
    assert size > 0
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _HOG, str(size)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"holds\n"
        yield
    finally:
        process.stdin.close()
        await process.wait()


async def memory_is(admin: Person, *, over: bool) -> None:
    """The stack has seen that memory is over its threshold, or no more."""

    async def seen() -> bool:
        pool = (await admin.ask("GET", "/api/admin/pools/default")).json()
        return any(each["measure"] == "memory" and each["over"] is over for each in pool["measures"])

    await eventually(seen, f"memory to be {'over' if over else 'below'} its threshold")


async def leave(stack: LocalStack, agent_id: str) -> None:
    """Its user has not been there for an hour."""
    database = await asyncpg.connect(stack.about["database"])
    await database.execute(
        "UPDATE agents SET last_activity_at = last_activity_at - interval '1 hour' WHERE agent_id = $1", agent_id
    )
    await database.close()


async def test_hog_in_the_machine_costs_the_absent_their_agent_and_nobody_else(tmp_path: Path) -> None:
    threshold = round(psutil.virtual_memory().percent + _ABOVE)
    if threshold > 85:
        pytest.fail("this machine has too little memory free for the test")
    async with local_stack(
        tmp_path / "data",
        "process",
        POOL__CAPACITY="3",
        THRESHOLDS__CPU_PERCENT="100",
        THRESHOLDS__DISK_PERCENT="100",
        THRESHOLDS__MEMORY_PERCENT=str(threshold),
        TIMINGS__SNAPSHOT_SECONDS="0.5",
        TIMINGS__PRESSURE_SECONDS="3600",
        TIMINGS__GRACE_SECONDS="2",
    ) as stack:
        admin = await stack.user("root", admin=True)
        ann, bob, cat = [await stack.user(name, "shop") for name in ("ann", "bob", "cat")]
        away, there = await ann.start("shop"), await bob.start("shop")
        for person, agent_id in ((ann, away), (bob, there)):
            await person.until(agent_id, "running")
        await leave(stack, away)
        async with hog(threshold + 3):
            await memory_is(admin, over=True)
            waits = await cat.start("shop")
            queued = await cat.agent(waits)
            assert (queued["state"], queued["reason"]) == ("queued", "insufficient_cluster_resources")
            await stack.temporal("schedule", "trigger", "--schedule-id", "berth-pressure")
            gone = await ann.until(away, "terminated")
        assert gone["reason"] == "resource_pressure"
        [evicted] = [event for event in await ann.events(away) if event["kind"] == "agent.evicted"]
        assert evicted["detail"]["memoryLimit"] == threshold
        assert evicted["detail"]["memoryPercent"] > threshold
        assert "not used for 6" in evicted["detail"]["detail"]
        await memory_is(admin, over=False)
        await cat.until(waits, "running")
        assert (await bob.agent(there))["state"] == "running"
