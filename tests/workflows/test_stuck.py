"""A step that its worker can never clear away."""

import asyncio
import os
import sys
from pathlib import Path

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import Worker

from temporal.stuck import Stuck
from tests.fixtures.stage import PATIENCE, until
from tests.workflows.clinging import Clinging
from workflows.options import CONTROL_QUEUE

WAITS = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED


async def test_worker_that_holds_one_ends_so_that_another_may_take_over(
    temporal_client: Client, database_url: str, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.workflows.clinging", str(ready)),
        env={name: value for name, value in os.environ.items() if not name.startswith("BERTH_")}
        | {
            "BERTH_DATABASE__URL": database_url,
            "BERTH_TEMPORAL__ADDRESS": temporal_client.service_client.config.target_host,
            "BERTH_DATA_DIR": str(tmp_path / "data"),
        },
    )
    try:

        async def up() -> bool:
            assert process.returncode is None
            return ready.exists()

        await until(up, "the worker to be ready")
        clinging = await temporal_client.start_workflow(Clinging.run, False, id="clinging", task_queue=CONTROL_QUEUE)

        async def waits() -> bool:
            return any(event.event_type == WAITS for event in (await clinging.fetch_history()).events)

        await until(waits, "its first step to be done")
        await clinging.signal(Clinging.stumble)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 1
        assert not ready.exists()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_one_that_goes_when_it_is_told_to_is_none(temporal_client: Client) -> None:
    stuck = Stuck()
    try:
        # One place: whoever comes next makes it clear away the one before.
        async with Worker(temporal_client, task_queue="letting-go", workflows=[Clinging], max_cached_workflows=1):
            for name in ("first", "second"):
                await temporal_client.start_workflow(Clinging.run, True, id=name, task_queue="letting-go")
        assert not stuck.found
    finally:
        stuck.close()
