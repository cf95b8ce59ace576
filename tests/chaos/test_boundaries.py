"""At every boundary of every flow a victim is harmed, and the flow ends as if nothing had happened."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.flows import FLOWS
from tests.chaos.rehearsal import Rehearsal, rehearsal
from tests.chaos.report import Report
from tests.chaos.series import Series
from tests.chaos.victims import FATAL_TO_AGENTS, VICTIMS

_QUICK = re.compile(r"after (register|the commit .*register|PUT|create_agent|the write .*mark_running|DELETE|finish)")


@pytest_asyncio.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsal]:
    async with rehearsal(tmp_path_factory.mktemp("boundaries") / "data") as one:
        yield one


@pytest.mark.timeout(300)
async def test_a_life_ends_the_same_when_whoever_carries_it_is_killed_between_its_steps(
    stack: Rehearsal, chaos_report: Report
) -> None:
    series = await Series.begin(stack, "one_life", "quick")
    chosen = [each for each in await series.boundaries() if _QUICK.match(each.at)]
    assert len(chosen) >= 7, chosen
    await series.harmed(chosen, "itself", chaos_report)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", VICTIMS)
async def test_who_lives_notices_nothing_of_what_is_harmed_while_it_is_looked_after(
    stack: Rehearsal, chaos_report: Report, victim: str
) -> None:
    series = await Series.begin(stack, "at_its_time", victim)
    cat = await stack.user(f"cat-{victim}".replace(" ", "-"), "shop")
    agent_id = await cat.start("shop")
    await cat.until(agent_id, "running")
    await series.harmed(await series.upkeep(), victim, chaos_report)
    agent = await cat.until(agent_id, "running")
    assert victim in FATAL_TO_AGENTS or agent["restartCount"] == 0
    await cat.stop(agent_id)
    await cat.until(agent_id, "terminated")


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_flow_ends_the_same_whatever_is_harmed_at_any_boundary(
    stack: Rehearsal, chaos_report: Report, flow: str, victim: str
) -> None:
    series = await Series.begin(stack, flow, victim)
    await series.harmed(await series.boundaries(), victim, chaos_report)
