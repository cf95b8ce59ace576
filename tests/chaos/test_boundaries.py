"""At every boundary of every flow a victim is harmed, and the flow ends as if nothing had happened."""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.boundaries import HELD_AT_ONCE
from tests.chaos.flows import FLOWS
from tests.chaos.rehearsal import Rehearsal, rehearsal, write_places
from tests.chaos.report import Report
from tests.chaos.series import PATIENT, Series
from tests.chaos.victims import VICTIMS, Victim

Harmed = tuple[Rehearsal, Victim]
_QUICK = re.compile(r"after (register|the commit .*register|PUT|create_agent|the write .*mark_running|DELETE|finish)")


@contextlib.asynccontextmanager
async def _stack(folder: Path, places: int) -> AsyncIterator[Rehearsal]:
    write_places(folder / "berth.yaml", "memory", places, {}, apart=True)
    settings = {"CONFIG": str(folder / "berth.yaml"), "POOL__CAPACITY": str(places)}
    # Each place is a cluster, and to measure them all twice a second took a third of the worker's time.
    rarely = {"TIMINGS__SNAPSHOT_SECONDS": "3"}
    async with rehearsal(folder / "data", **settings, **rarely, **PATIENT) as one:
        yield one


@pytest_asyncio.fixture(scope="module", params=VICTIMS)
async def harmed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harmed]:
    """A stack for each victim, since what has lived in it is looked at again after each wave."""
    async with _stack(tmp_path_factory.mktemp("boundaries"), HELD_AT_ONCE) as stack:
        yield stack, VICTIMS[request.param]


@pytest.mark.timeout(300)
async def test_a_life_ends_the_same_when_whoever_carries_it_is_killed_between_its_steps(
    tmp_path: Path, chaos_report: Report
) -> None:
    async with _stack(tmp_path, 4) as stack:
        series = Series(stack, "one_life", VICTIMS["itself"])
        chosen = [each for each in await series.boundaries() if _QUICK.match(each.at)]
        assert len(chosen) >= 7, chosen
        await series.harmed(chosen, chaos_report)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_who_lives_notices_nothing_of_what_is_harmed_while_it_is_looked_after(
    harmed: Harmed, chaos_report: Report
) -> None:
    stack, victim = harmed
    series = Series(stack, "at_its_time", victim)
    cat = await stack.user("cat", "shop")
    agent_id = await cat.start("shop")
    await cat.until(agent_id, "running")
    await series.harmed(await series.upkeep(), chaos_report)
    agent = await cat.until(agent_id, "running")
    assert victim.has_agents or agent["restartCount"] == 0
    await cat.stop(agent_id)
    await cat.until(agent_id, "terminated")


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_flow_ends_the_same_whatever_is_harmed_at_any_boundary(
    harmed: Harmed, chaos_report: Report, flow: str
) -> None:
    stack, victim = harmed
    series = Series(stack, flow, victim)
    await series.harmed(await series.boundaries(), chaos_report)
