"""Memory that really runs short here: who is away leaves, who is there lives on, and the door opens again."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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


def pressed_stack(folder: Path, threshold: int, **more: str) -> AbstractAsyncContextManager[LocalStack]:
    """Real agents where only memory matters, and nobody looks for pressure but when told."""
    return local_stack(
        folder / "data",
        "process",
        POOL__CAPACITY="3",
        THRESHOLDS__CPU_PERCENT="100",
        THRESHOLDS__DISK_PERCENT="100",
        THRESHOLDS__MEMORY_PERCENT=str(threshold),
        TIMINGS__SNAPSHOT_SECONDS="0.5",
        TIMINGS__PRESSURE_SECONDS="3600",
        TIMINGS__GRACE_SECONDS="2",
        **more,
    )


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


# Tells in its title when it holds as many MiB as its address says; each byte is written, so that none is shared.
_FAT_PAGE = """<!doctype html><title>grows</title><script>
const held = [], block = 64 << 20;
for (let left = Number(location.search.slice(1)); left > 0; left -= 64) {
  const bytes = new Uint8Array(block);
  for (let at = 0; at < block; at += 4096) bytes[at] = Math.floor(Math.random() * 255) + 1;
  held.push(bytes);
}
document.title = "holds " + held.length;
</script>"""


@asynccontextmanager
async def fat_page() -> AsyncIterator[str]:
    """`host:port` of a page that holds as much memory as it is asked to."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(_FAT_PAGE)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n{_FAT_PAGE}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def reports(admin: Person, agent_id: str, mib: int) -> None:
    """The agent has told that it holds at least that much."""

    async def told() -> bool:
        found = (await admin.ask("GET", f"/api/admin/agents/{agent_id}/report")).json()
        return bool(found.get("memoryBytes", 0) >= mib << 20)

    await eventually(told, f"{agent_id} to report {mib} MiB")


async def pressure_looks(stack: LocalStack) -> None:
    """Have the watch over memory look once, and return when it has."""

    over = "WorkflowType = 'PressureWatch' AND ExecutionStatus = 'Completed'"

    async def looks() -> int:
        return int((await stack.temporal("workflow", "count", "--query", over)).rsplit(maxsplit=1)[-1])

    before = await looks()
    await stack.temporal("schedule", "trigger", "--schedule-id", "berth-pressure")

    async def looked() -> bool:
        return await looks() > before

    await eventually(looked, "a look for pressure")


async def test_pressure_that_lasts_costs_the_oldest_of_the_lowest_tier_and_ends_with_what_it_held(
    tmp_path: Path,
) -> None:
    memory = psutil.virtual_memory()
    # More than what has to go: the door opens five points lower than it shuts.
    fat = int(0.1 * memory.total) >> 20
    threshold = round(memory.percent + _ABOVE + 10)
    if threshold > 90:
        pytest.fail("this machine has too little memory free for the test")
    async with fat_page() as address:
        limits = {"memory_limit_mib": fat + 2048}
        template = {"browser": {"allowed_hosts": [address]}, "resources": limits}
        config = tmp_path / "berth.yaml"
        config.write_text(json.dumps({"templates": {"default": template}}))
        async with pressed_stack(tmp_path, threshold, CONFIG=str(config), TIMINGS__HEARTBEAT_SECONDS="1") as stack:
            admin = await stack.user("root", admin=True)
            ann, bob = await stack.user("ann", "shop", tier="premium"), await stack.user("bob", "shop")
            # The older one, and of the higher tier.
            paid = await ann.start("shop")
            await ann.until(paid, "running")
            free = await bob.start("shop")
            await bob.until(free, "running")
            await bob.do(free, "navigate", url=f"http://{address}/?{fat}")
            await reports(admin, free, fat)
            async with hog(threshold + 1.5):
                await memory_is(admin, over=True)
                await pressure_looks(stack)
                assert [(await ann.agent(paid))["state"], (await bob.agent(free))["state"]] == ["running", "running"]
                await pressure_looks(stack)
                gone = await bob.until(free, "terminated")
                assert gone["reason"] == "resource_pressure"
                # The hog is still there: what went was enough.
                await memory_is(admin, over=False)
                await pressure_looks(stack)
                assert (await ann.agent(paid))["state"] == "running"
            [evicted] = [event for event in await bob.events(free) if event["kind"] == "agent.evicted"]
            assert "the oldest of those of tier free" in evicted["detail"]["detail"]


async def test_hog_in_the_machine_costs_the_absent_their_agent_and_nobody_else(tmp_path: Path) -> None:
    threshold = round(psutil.virtual_memory().percent + _ABOVE)
    if threshold > 85:
        pytest.fail("this machine has too little memory free for the test")
    async with pressed_stack(tmp_path, threshold) as stack:
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
