"""The ceiling: a workflow that does nothing but three activities, on the same server in the same run."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from tests.bench.load import stopwatch

_QUEUE = "bench-bare"


@activity.defn(name="bare_step")
async def bare_step(value: str) -> str:
    return value


@workflow.defn(name="Bare")
class Bare:
    @workflow.run
    async def run(self, value: str) -> str:
        for _ in range(3):
            value = await workflow.execute_activity(bare_step, value, start_to_close_timeout=timedelta(seconds=30))
        return value


async def bare_workflows(address: str, name: str, count: int, at_once: int) -> float:
    """Bare workflows a second with `at_once` in flight."""
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    gate = asyncio.Semaphore(at_once)
    async with Worker(client, task_queue=_QUEUE, workflows=[Bare], activities=[bare_step]):

        async def one(number: int) -> None:
            async with gate:
                await client.execute_workflow(Bare.run, "x", id=f"{name}-{number}", task_queue=_QUEUE)

        with stopwatch() as took:
            await asyncio.gather(*(one(number) for number in range(count)))
    return count / took[0]
