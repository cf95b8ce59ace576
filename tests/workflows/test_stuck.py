"""A step that its worker cannot clear away."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import Worker

from temporal.stuck import stuck, uncleared
from tests.fixtures.stack import environment_of
from tests.fixtures.stage import PATIENCE, until
from tests.workflows.clinging import Clinging
from workflows.options import CONTROL_QUEUE

FOR_EVER = 10**9


async def made_to_stumble(client: Client, name: str, stays: int, queue: str) -> None:
    """A run that has begun to wait and is to be cleared away then."""
    handle = await client.start_workflow(Clinging.run, stays, id=name, task_queue=queue)

    async def waits() -> bool:
        events = (await handle.fetch_history()).events
        return any(event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED for event in events)

    await until(waits, "its first step to be done")
    await handle.signal(Clinging.stumble)


@asynccontextmanager
async def berth_worker(
    client: Client, database_url: str, folder: Path, patience: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    ready = folder / "ready"
    address = client.service_client.config.target_host
    environment = environment_of(folder / "data", {"DATABASE__URL": database_url, "TEMPORAL__ADDRESS": address})
    argv = sys.executable, "-m", "tests.workflows.clinging", str(ready), str(patience)
    process = await asyncio.create_subprocess_exec(*argv, env=environment, stderr=asyncio.subprocess.PIPE)
    try:

        async def up() -> bool:
            assert process.returncode is None
            return ready.exists()

        await until(up, "the worker to be ready")
        yield process
        assert not ready.exists()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_worker_that_holds_one_ends_so_that_another_may_take_over(
    temporal_client: Client, database_url: str, tmp_path: Path
) -> None:
    async with berth_worker(temporal_client, database_url, tmp_path, patience=3) as process:
        await made_to_stumble(temporal_client, "clinging", FOR_EVER, CONTROL_QUEUE)
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 1


async def test_worker_that_holds_one_ends_also_when_it_is_told_to(
    temporal_client: Client, database_url: str, tmp_path: Path
) -> None:
    async with berth_worker(temporal_client, database_url, tmp_path, patience=3600) as process:
        await made_to_stumble(temporal_client, "clinging", FOR_EVER, CONTROL_QUEUE)
        assert process.stderr is not None
        while b"Failed running eviction job" not in await asyncio.wait_for(process.stderr.readline(), PATIENCE):
            assert process.returncode is None
        process.terminate()
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0


async def test_one_that_goes_at_the_second_try_is_waited_for(temporal_client: Client) -> None:
    async with Worker(temporal_client, task_queue="clinging", workflows=[Clinging]) as worker:
        noticed = asyncio.create_task(stuck([worker], PATIENCE))
        await made_to_stumble(temporal_client, "clinging", 1, "clinging")

        async def held() -> bool:
            return uncleared(worker) == 1

        async def cleared() -> bool:
            return uncleared(worker) == 0

        await until(held, "a try that fails")
        await until(cleared, "another that does not")
        assert not noticed.done()
        noticed.cancel()
