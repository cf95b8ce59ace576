"""Workers of two releases beside each other: a life stays with the one it began with until it is moved, and ends."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fixtures.stack import PATIENCE, LocalStack, Person, eventually, local_stack

SHORT = {
    "TIMINGS__SNAPSHOT_SECONDS": "0.5",
    "TIMINGS__GRANT_TICK_SECONDS": "2",
    "TIMINGS__SHUTDOWN_SECONDS": "5",
    # Nothing that would wake a life by itself.
    "TIMINGS__REAP_SECONDS": "600",
    "TIMINGS__PRESSURE_SECONDS": "600",
}


@contextlib.asynccontextmanager
async def worker(stack: LocalStack, release: str) -> AsyncIterator[None]:
    """One more worker of the stack, of another release."""
    about = stack.about
    environment = stack.environment | {
        "BERTH_WORKER__BUILD_ID": release,
        "BERTH_DATABASE__URL": about["database"],
        "BERTH_TEMPORAL__ADDRESS": about["temporal"],
        "BERTH_POOL__RUNTIME": "memory",
        "BERTH_AUTH__SECRET": (stack.folder / "secrets" / "auth").read_text().strip(),
    }
    log = stack.folder / f"worker-{release}.log"
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "api.cli", "worker", env=environment, stdout=said, stderr=said
        )
        try:
            yield
            assert process.returncode is None, log.read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE)


async def releases(stack: LocalStack) -> dict[str, dict[str, object]]:
    return {each["build_id"]: each for each in json.loads(await stack.berth("releases", "--json"))}


async def until_there(stack: LocalStack, release: str) -> None:
    async def there() -> bool:
        return release in await releases(stack)

    await eventually(there, f"workers of {release}")


async def release_of(stack: LocalStack, user: str) -> str:
    told = json.loads(await stack.temporal("workflow", "describe", "-w", f"agent/{user}/shop", "--output", "json"))
    return str(told["workflowExecutionInfo"]["versioningInfo"]["deploymentVersion"]["buildId"])


async def until_on(stack: LocalStack, user: str, release: str) -> None:
    async def there() -> bool:
        return await release_of(stack, user) == release

    await eventually(there, f"the life of {user} to be on {release}")


async def gone(someone: Person, agent_id: str) -> None:
    await someone.stop(agent_id)
    await someone.until(agent_id, "terminated")


@pytest.mark.timeout(240)
async def test_life_stays_with_its_release_until_it_is_moved_and_ends_on_the_next(tmp_path: Path) -> None:
    async with local_stack(tmp_path / "data", WORKER__BUILD_ID="1-0", **SHORT) as stack:
        await until_there(stack, "1-0")
        await stack.berth("releases", "use")
        ann, bob = await stack.user("ann", "shop"), await stack.user("bob", "shop")
        first = await ann.start("shop")
        await ann.until(first, "running")
        assert await release_of(stack, "ann") == "1-0"

        async with worker(stack, "2-0"):
            await until_there(stack, "2-0")
            await stack.berth("releases", "use", "2-0")
            second = await bob.start("shop")
            await bob.until(second, "running")
            assert await release_of(stack, "bob") == "2-0"
            assert await release_of(stack, "ann") == "1-0"
            assert (await ann.agent(first))["state"] == "running"

            await stack.berth("releases", "move")
            await until_on(stack, "ann", "2-0")
            agent = await ann.agent(first)
            assert (agent["state"], agent["restartCount"]) == ("running", 0)

            # And back. Whatever a life has to do is occasion enough; one that has nothing to do is told.
            await stack.berth("releases", "use", "1-0")
            await stack.temporal("workflow", "signal", "-w", "agent/ann/shop", "--name", "failed")
            await until_on(stack, "ann", "1-0")
            await stack.berth("releases", "move")
            await until_on(stack, "bob", "1-0")
            assert (await ann.agent(first))["state"] == "running"

        await gone(ann, first)
        await gone(bob, second)


@pytest.mark.timeout(240)
async def test_life_that_an_order_holds_to_its_release_stays_there(tmp_path: Path) -> None:
    async with local_stack(tmp_path / "data", WORKER__BUILD_ID="1-0", **SHORT) as stack:
        await until_there(stack, "1-0")
        await stack.berth("releases", "use")
        ann = await stack.user("ann", "shop")
        first = await ann.start("shop")
        await ann.until(first, "running")
        to = ["--versioning-override-deployment-name", "berth", "--versioning-override-build-id", "1-0"]
        held = ["--versioning-override-behavior", "pinned", *to]
        await stack.temporal("workflow", "update-options", "-w", "agent/ann/shop", *held)
        async with worker(stack, "2-0"):
            await until_there(stack, "2-0")
            await stack.berth("releases", "use", "2-0")
            before = await run_of(stack, "ann")
            await stack.temporal("workflow", "signal", "-w", "agent/ann/shop", "--name", "failed")
            await eventually(lambda: heard(stack, "ann"), "the word to be heard")
            assert await run_of(stack, "ann") == before
            assert await release_of(stack, "ann") == "1-0"
            await gone(ann, first)


async def run_of(stack: LocalStack, user: str) -> str:
    told = json.loads(await stack.temporal("workflow", "describe", "-w", f"agent/{user}/shop", "--output", "json"))
    return str(told["workflowExecutionInfo"]["execution"]["runId"])


async def heard(stack: LocalStack, user: str) -> bool:
    """Whether the last that happened is that a life has decided what to do about a word."""
    told = json.loads(await stack.temporal("workflow", "show", "-w", f"agent/{user}/shop", "--output", "json"))
    kinds = [event["eventType"].removeprefix("EVENT_TYPE_") for event in told["events"]]
    return "WORKFLOW_EXECUTION_SIGNALED" in kinds and "WORKFLOW_TASK_COMPLETED" in kinds[-2:]


@pytest.mark.timeout(240)
async def test_life_whose_release_is_gone_is_carried_over_by_an_order_of_its_operator(tmp_path: Path) -> None:
    async with local_stack(tmp_path / "data", WORKER__BUILD_ID="2-0", **SHORT) as stack:
        await until_there(stack, "2-0")
        ann = await stack.user("ann", "shop")
        async with worker(stack, "1-0"):
            await until_there(stack, "1-0")
            await stack.berth("releases", "use", "1-0")
            first = await ann.start("shop")
            await ann.until(first, "running")
            await stack.berth("releases", "use", "2-0")
        # No worker of 1-0 is left, and the run is held to it: whatever it is told waits.
        assert await release_of(stack, "ann") == "1-0"
        await ann.stop(first)
        to = ["--versioning-override-deployment-name", "berth", "--versioning-override-build-id", "2-0"]
        one_time = ["--versioning-override-behavior", "one_time", *to]
        await stack.temporal("workflow", "update-options", "-w", "agent/ann/shop", *one_time)
        await ann.until(first, "terminated")


async def test_release_that_nobody_works_for_is_refused_with_words(tmp_path: Path) -> None:
    async with local_stack(tmp_path / "data", **SHORT) as stack:
        assert await stack.berth("releases") == ""
        await stack.berth("releases", "use", code=2)
        await stack.berth("releases", "use", "9-9", code=3)
        # Without versions workers take every life on.
        ann = await stack.user("ann", "shop")
        first = await ann.start("shop")
        await ann.until(first, "running")
        await gone(ann, first)
